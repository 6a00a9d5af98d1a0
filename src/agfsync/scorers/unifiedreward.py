"""UnifiedReward 2.0: a vision-language model that writes scores of an image (Wang et al. 2025, arXiv:2503.05236).

Weights CodeGoat24/UnifiedReward-2.0-qwen3vl-8b and its variants (Qwen2.5-VL, Qwen3-VL, Qwen3.5), as safetensors.
`PROBLEM` is the published text for point scores, under the MIT licence. The published code sends the image as a JPEG to
a server; this module gives the pixels to the model's own processor.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from agfsync.chat.completions import Reply, explain_reply
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.vlm import ImageReader

Dimension = Literal["alignment", "coherence", "style"]
PROBLEM = (
    "You are presented with a generated image and its associated text caption. "
    "Your task is to analyze the image across multiple dimensions in relation to the caption. Specifically:\n"
    "Provide overall assessments for the image along the following axes (each rated from 1 to 5):\n"
    "- Alignment Score: How well the image matches the caption in terms of content.\n"
    "- Coherence Score: How logically consistent the image is (absence of visual glitches, object distortions, etc.).\n"
    "- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.\n\n"
    "Output your evaluation using the format below:\n\n"
    "Alignment Score (1-5): X\nCoherence Score (1-5): Y\nStyle Score (1-5): Z\n\n"
    "Your task is provided as follows:\nText Caption: [{}]"
)
_SCORE = re.compile(
    r"(alignment|coherence|style) score[\s*]*(?:\(1\s*[-–]\s*5\))?[\s*:=]*(\d+(?:\.\d+)?)", re.IGNORECASE
)


class UnifiedReward:
    """The scorer: 25 x (mean - 1), where mean is that of the model's scores in 1..5 for the dimensions in `asks`.

    A mean of 1 gives 0, a mean of 5 gives 100. The reply is greedy. An item is unscored if the reply lacks a score.

    `path` is a folder or a hub id of a model that the scorer `vlm` supports.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        asks: Sequence[Dimension] = ("alignment", "coherence", "style"),
        reply_tokens: int = 256,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._reader = ImageReader(path, revision, dtype, device)
        self._asks, self._reply_tokens = asks, reply_tokens

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its questions aren't used."""
        return [self._rate(item) for item in items]

    def _rate(self, item: Item) -> Measurement | Unscored:
        text, cut = self._reader.reply([item.image, PROBLEM.replace("{}", item.prompt)], self._reply_tokens)
        reply = Reply(text, finish="length" if cut else "stop", cut=cut)
        scores = read_point_scores(reply.answer)
        if missing := [name for name in self._asks if not 1 <= scores.get(name, 0) <= 5]:
            fault = explain_reply(reply, f"reply_tokens = {self._reply_tokens}")
            return Unscored(f"the model's reply holds no {missing[0]} score from 1 to 5: {fault}")
        mean = sum(scores[name] for name in self._asks) / len(self._asks)
        return Measurement(25 * (mean - 1))


def read_point_scores(reply: str) -> Mapping[str, float]:
    """Return the scores in `reply` by dimension; the last one of a dimension counts.

    >>> read_point_scores("Alignment Score (1-5): 2.5, **Style Score**: 4")
    {'alignment': 2.5, 'style': 4.0}
    """
    return {match[1].lower(): float(match[2]) for match in _SCORE.finditer(reply)}
