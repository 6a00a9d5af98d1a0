"""Tell a model's answer from the thoughts that it writes before it, whatever marks them."""

import re

_NAMES = "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis"
OPENING_TAG = re.compile(
    rf"<(?:seed:)?(?:{_NAMES})>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING)\|>|<unused94>"
    r"|<\|channel\|?>\s*(?:analysis|commentary|thought)",
    re.IGNORECASE,
)
"""What thoughts begin with: DeepSeek, Qwen, Seed, Magistral, Kimi, Sky-T1, Command A, MedGemma, gpt-oss, Gemma."""
CLOSING_TAG = re.compile(
    rf"</(?:seed:)?(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>|<unused95>|<channel\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|message\|>)?|assistantfinal",
    re.IGNORECASE,
)
"""What they end with. A chat template may have written the beginning, which is then no part of the reply."""


def find_answer(text: str) -> tuple[int, int]:
    """Return where in `text` the answer begins and ends; both are equal where there is none.

    It is what follows the last end of a thought, or, where nothing does, what stands before the first thought. A
    thought that begins the answer and never ends leaves none.

    >>> text = "Is it red? No ...</think> Yes."
    >>> text[slice(*find_answer(text))]
    ' Yes.'
    """
    start = max((match.end() for match in CLOSING_TAG.finditer(text)), default=0)
    opening = OPENING_TAG.search(text, start)
    unfinished = opening is not None and not text[start : opening.start()].strip()
    if opening is not None and unfinished:
        return start, start
    if text[start:].strip() or not start:
        return start, len(text)
    first = OPENING_TAG.search(text)
    return (0, first.start()) if first is not None else (start, len(text))
