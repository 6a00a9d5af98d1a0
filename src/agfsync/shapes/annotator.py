"""The Shapes world's annotator: small networks judge the aspects, instead of a multimodal model.

    prompt-following   the mean P(right answer) of the VQA model over the caption's statements and foils
    aesthetic          the aesthetic head's rating
    fidelity           the fidelity network's share of whole things
    harmlessness       a placeholder: the red cross is a protected emblem, and an image that shows one counts as
                       harmful. The value is the VQA model's P(no) for the question `TABOO`

Unlike other annotators it judges each image alone, without position bias: one order is enough.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from PIL import Image

from agfsync.catalog import model_path
from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Scorer, Unscored
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.annotators import HIGHEST, LOWEST, AnnotationRequest, AspectJudgement, Unjudged, rank_by_score
from agfsync.scorers.vqa import Vqa
from agfsync.shapes.fidelity import ShapesFidelity
from agfsync.shapes.language import ShapesWriter

TABOO = "Is there a red cross?"
STEPS_A_LEVEL = 4
"""Scores are multiples of a quarter of a level, so that small differences between two images are ties."""

Rating = tuple[float, str]
"""A value in 0..1, and its reason."""


class ShapesAnnotator:
    """Scores in 1..5, ranks and reasons by the embedded networks; only the names of `aspects` are used, not the texts.

    Each image of a request is judged alone, so that the order doesn't matter.
    """

    def __init__(self, *, aspects: Mapping[str, Any], dtype: str = "fp32", device: str = "auto") -> None:
        self._dtype, self._device = dtype, device
        if unknown := sorted(set(aspects) - set(_RATE)):
            raise ModelError(f"a shapes-annotator knows no aspect {unknown[0]}: there are {', '.join(_RATE)}")

    def annotate(self, requests: Sequence[AnnotationRequest]) -> Iterable[AspectJudgement | Unjudged]:
        """Yield one reply for each request, in order."""
        for request in requests:
            ratings = _RATE[request.aspect](self, request.prompt, request.images)
            yield make_judgement(ratings) if ratings else Unjudged("the prompt states nothing of the Shapes world")

    def _rate_prompt_following(self, prompt: str, images: Sequence[Image.Image]) -> list[Rating]:
        drafts = ShapesWriter().questions(prompt, 0)
        if not drafts:
            return []
        texts, ratings = [draft.text for draft in drafts], list[Rating]()
        for of_image in self._vqa.p_yes(list(images), [texts] * len(images)):
            right = [p if draft.answer == "yes" else 1 - p for draft, p in zip(drafts, of_image, strict=True)]
            wrong = [draft.text for draft, p in zip(drafts, right, strict=True) if p <= 0.5]
            asked = f"{len(drafts) - len(wrong)} of {len(drafts)} questions are answered as the caption states"
            ratings.append((fmean(right), f"{asked}, not: {' '.join(wrong)}" if wrong else f"{asked}."))
        return ratings

    def _rate_aesthetic(self, prompt: str, images: Sequence[Image.Image]) -> list[Rating]:
        return [(value, f"Rated {10 * value:.1f} of 10.") for value in _score_images(self._aesthetic, images)]

    def _rate_fidelity(self, prompt: str, images: Sequence[Image.Image]) -> list[Rating]:
        return [(value, f"{value:.0%} of the things are whole.") for value in _score_images(self._fidelity, images)]

    def _rate_harmlessness(self, prompt: str, images: Sequence[Image.Image]) -> list[Rating]:
        shown = self._vqa.p_yes(list(images), [[TABOO]] * len(images))
        return [(1 - p, f"A red cross, a protected emblem, is seen with probability {p:.2f}.") for (p,) in shown]

    @cached_property
    def _vqa(self) -> Vqa:
        return Vqa(path=model_path("embedded:vqa"), dtype=self._dtype, device=self._device)

    @cached_property
    def _aesthetic(self) -> Aesthetic:
        head = model_path("embedded:aesthetic")
        return Aesthetic(path=model_path("embedded:clip"), head=head, dtype=self._dtype, device=self._device)

    @cached_property
    def _fidelity(self) -> ShapesFidelity:
        return ShapesFidelity(path=model_path("embedded:fidelity"))


_RATE = {
    "prompt-following": ShapesAnnotator._rate_prompt_following,
    "aesthetic": ShapesAnnotator._rate_aesthetic,
    "fidelity": ShapesAnnotator._rate_fidelity,
    "harmlessness": ShapesAnnotator._rate_harmlessness,
}


def make_judgement(ratings: Sequence[Rating]) -> AspectJudgement:
    """Return the scores, 1 + 4 x value rounded to steps of `1 / STEPS_A_LEVEL`, with ranks and reasons.

    >>> make_judgement([(0.99, "whole"), (0.5, "half"), (0.53, "half")]).scores
    (5.0, 3.0, 3.0)
    """
    span = (HIGHEST - LOWEST) * STEPS_A_LEVEL
    scores = tuple(LOWEST + round(span * value) / STEPS_A_LEVEL for value, _ in ratings)
    return AspectJudgement(scores, rank_by_score(scores), tuple(reason for _, reason in ratings))


def _score_images(scorer: Scorer, images: Sequence[Image.Image]) -> list[float]:
    """Return a scorer's values in 0..1.

    Raises:
        ModelError: an image has no value.
    """
    found: Sequence[Measurement | Unscored] = scorer.score([Item("", (), image) for image in images])
    values = [each.value / 100 for each in found if isinstance(each, Measurement)]
    if len(values) < len(images):
        raise ModelError("a network of the shapes-annotator gave no number: its weights are damaged")
    return values
