"""Rules that make pairs of scored candidates."""

from collections.abc import Mapping

CandidateScores = Mapping[str, float | None]
"""Scorer -> its score of a candidate, on 0..100; None where it gave none."""


def weighted_sum(values: CandidateScores, weights: Mapping[str, float]) -> float | None:
    """Return S = sum of w_i s_i (Eq. 5), or None where a weighted scorer gave no score.

    >>> weighted_sum({"vqa": 100.0, "clip": 30.0}, {"vqa": 0.5, "clip": 0.5})
    65.0
    """
    total = 0.0
    for name, weight in weights.items():
        value = values.get(name)
        if value is None:
            return None
        total += weight * value
    return total
