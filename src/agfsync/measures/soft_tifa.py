"""Soft-TIFA (github.com/facebookresearch/GenEval2): probabilities of the expected answers, not right and wrong."""

from collections.abc import Sequence
from math import exp, log
from statistics import fmean

from agfsync.measures import Figures, JudgedImage


def measure_soft_tifa(images: Sequence[JudgedImage]) -> Figures:
    """Return the mean over captions of the arithmetic and of the geometric mean of P(expected answer).

    P is that of yes against no, where GenEval 2's code takes the share of the whole vocabulary.
    """
    found = [p for image in images if (p := _list_probabilities(image))]
    if not found:
        return {}
    return {
        "arithmetic mean": 100 * fmean(map(fmean, found)),
        "geometric mean": 100 * fmean(map(_compute_geometric_mean, found)),
    }


def _list_probabilities(image: JudgedImage) -> list[float]:
    asked = [question for question in image.questions if question.key in image.answers]
    given = [(question.answer, image.answers[question.key].p_yes) for question in asked]
    return [p if answer == "yes" else 1 - p for answer, p in given]


def _compute_geometric_mean(p: Sequence[float]) -> float:
    return exp(fmean(map(log, p))) if all(p) else 0.0
