"""Soft-TIFA of GenEval 2 (arXiv:2512.16853): probabilities of the expected answers instead of right and wrong."""

from collections import defaultdict
from collections.abc import Sequence
from math import exp, log
from statistics import fmean

from agfsync.measures import Figures, JudgedImage


def measure_soft_tifa(images: Sequence[JudgedImage]) -> Figures:
    """Return the mean over captions of the arithmetic and of the geometric mean of P(expected answer).

    The arithmetic mean is also returned for each skill, pooled over its questions, and the geometric mean for each
    category of captions, which is the number of atoms in GenEval 2. P is the probability among all possible replies if
    the judge knows it, else against the other answers.
    """
    found = [(image, each) for image in images if (each := _list_probabilities(image))]
    if not found:
        return {}
    by_skill, by_category = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for image, each in found:
        by_category[image.category].append(_compute_geometric_mean([p for _, p in each]))
        for skill, probability in each:
            by_skill[skill].append(probability)
    return {
        "arithmetic mean": 100 * fmean(fmean(p for _, p in each) for _, each in found),
        "geometric mean": 100 * fmean(p for of in by_category.values() for p in of),
        **{f"arithmetic mean, {skill}": 100 * fmean(of) for skill, of in sorted(by_skill.items())},
        **{f"geometric mean, {category}": 100 * fmean(of) for category, of in sorted(by_category.items())},
    }


def _list_probabilities(image: JudgedImage) -> list[tuple[str, float]]:
    """Return the skill and P(expected answer) of each answered question."""
    given = [(question, image.answers[question.key]) for question in image.questions if question.key in image.answers]
    return [
        (q.label or q.element_type, a.compute_p_right(q) if a.p_expected is None else a.p_expected) for q, a in given
    ]


def _compute_geometric_mean(p: Sequence[float]) -> float:
    return exp(fmean(map(log, p))) if all(p) else 0.0
