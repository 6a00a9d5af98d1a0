"""The report's galleries: the choice of images to show side by side, and their cards."""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from agfsync.files.images import BrokenImageError, decode_image
from agfsync.records import Comparison, Pair, Question
from agfsync.stages.report.evidence import CandidateJudgement, Evidence, ImageKeys

BUDGET = 3_000_000
"""the most bytes of all images of a page, before base64 adds a third"""
EDGES = (384, 256, 192, 128, 96, 64)
"""Sizes in pixels to which larger images are scaled down: the first that keeps to the budget is used."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score of both images; a value is None if the scorer gave none."""

    name: str
    left: float | None
    right: float | None

    @property
    def difference(self) -> float | None:
        """The difference, rounded as it is shown, so that one shown as 0.0 is 0."""
        return None if self.left is None or self.right is None else round(self.right - self.left, 1)


@dataclass(frozen=True, slots=True)
class Differing:
    """A question that is answered differently on the two images; `expected` is the caption's answer."""

    text: str
    expected: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Card:
    """Two images of a caption with their scores, and the questions that `asked` answers differently on them."""

    caption: str
    category: str
    left: str
    right: str
    rows: tuple[ScoreRow, ...]
    asked: str
    differing: tuple[Differing, ...]


def find_extremes(evidence: Evidence, judge: str | None, count: int) -> tuple[list[str], list[str]]:
    """Return the caption keys of the best gains and the worst losses, at most half of `count` each.

    They are ranked by `judge`'s difference, then by the weighted sum's; without a judge by the weighted sum's.
    """
    sums = _sum_weighted_gains(evidence.comparisons, evidence.recipe.pairs.weights)
    gains = sums if judge is None else _list_gains(evidence.comparisons, judge)
    ranked = sorted((key for key in gains if key in evidence.drawn), key=lambda k: (gains[k], sums.get(k, 0.0), k))
    losses = [key for key in ranked if gains[key] < 0][: count // 2]
    best = [key for key in reversed(ranked) if gains[key] > 0][: count - count // 2]
    return best, losses


def spread_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return `count` pairs, evenly spaced in rank from the widest margin to the narrowest."""
    ranked = sorted(pairs, key=lambda pair: (-pair.margin, pair.key))
    if len(ranked) <= count or count < 2:
        return ranked[:count]
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def make_card(
    evidence: Evidence,
    caption_key: str,
    sides: ImageKeys,
    judged: Mapping[str, CandidateJudgement],
    questions: Mapping[str, Question],
    order: Sequence[str],
    total: ScoreRow | None = None,
) -> Card:
    """Return the card of a caption's two images, with scores in the `order` of scorers and their `total`."""
    left, right = (judged.get(key, CandidateJudgement()) for key in (sides.base, sides.aligned))
    rows = [
        ScoreRow(s, left.values.get(s), right.values.get(s)) for s in order if s in left.values or s in right.values
    ]
    asked, differing = _find_differing(left, right, questions, order)
    caption = evidence.captions.get(caption_key)
    return Card(
        caption=caption.text if caption else caption_key,
        category=caption.category if caption else "",
        left=sides.base,
        right=sides.aligned,
        rows=(*([total] if total else []), *rows),
        asked=asked,
        differing=differing,
    )


def make_data_uris(images: Mapping[str, bytes]) -> dict[str, str]:
    """Return each image as a data URI, scaled down until all fit the budget; broken ones are left out."""
    for edge in EDGES:
        files = {key: file for key, image in images.items() if (file := _shrink_image(image, edge))}
        if sum(len(data) for _, data in files.values()) <= BUDGET:
            break
    return {key: f"data:image/{kind};base64,{b64encode(data).decode()}" for key, (kind, data) in files.items()}


def _shrink_image(image: bytes, edge: int) -> tuple[str, bytes] | None:
    """Return an image's media subtype and file: unchanged if small, else as WebP of at most `edge` pixels."""
    try:
        small = decode_image(image)
    except BrokenImageError:
        return None
    if max(small.size) <= edge and len(image) <= edge * edge:
        return _find_subtype(image), image
    small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=82)
    return "webp", file.getvalue()


def _find_subtype(image: bytes) -> str:
    """Return the media subtype of an image file, by its first bytes."""
    return "png" if image.startswith(b"\x89PNG") else "webp" if image.startswith(b"RIFF") else "jpeg"


def _list_gains(comparisons: Sequence[Comparison], judge: str) -> dict[str, float]:
    return {c.caption_key: c.aligned - c.base for c in comparisons if c.judge == judge and not c.element_type}


def _sum_weighted_gains(comparisons: Sequence[Comparison], weights: Mapping[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for judge, weight in weights.items():
        for key, gain in _list_gains(comparisons, judge).items():
            sums[key] = sums.get(key, 0.0) + weight * gain
    return sums


def _find_differing(
    left: CandidateJudgement, right: CandidateJudgement, questions: Mapping[str, Question], order: Sequence[str]
) -> tuple[str, tuple[Differing, ...]]:
    """Return the first scorer in `order` that answers questions, and the questions on which the images differ."""
    for scorer in order:
        if left.answers.get(scorer) and right.answers.get(scorer):
            answers = {a.question_key: a.answer for a in left.answers[scorer]}
            return scorer, tuple(
                Differing(
                    questions[a.question_key].text, questions[a.question_key].answer, answers[a.question_key], a.answer
                )
                for a in right.answers[scorer]
                if a.question_key in questions and answers.get(a.question_key, a.answer) != a.answer
            )
    return "", ()
