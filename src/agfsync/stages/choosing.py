"""The choice `best-worst`: the best and the worst of each caption's candidates by the weighted sum (Eq. 5 to 7).

A choice is a class of the catalog's "choices"; its fields are its settings in the recipe's `pairs.choose`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

CandidateScores = Mapping[str, float | None]
"""Scorer -> its score of a candidate, on 0..100; None where it gave none."""


@dataclass(frozen=True, slots=True)
class ChosenPair:
    """Winner and loser of a caption by their candidates' keys, with their total scores."""

    winner: str
    loser: str
    winner_score: float
    loser_score: float

    @property
    def margin(self) -> float:
        return self.winner_score - self.loser_score


class Choice(Protocol):
    """A rule that makes pairs of a caption's scored candidates."""

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        """Return the caption's pairs, and why candidates or the caption were left out, counted.

        Args:
            values: each candidate's scores, by its key, in the order of drawing.
        """
        ...


@dataclass(frozen=True, slots=True)
class BestWorst:
    """Winner = argmax S, loser = argmin S with S = sum of w_i s_i, the first of equals.

    A candidate that lacks a weighted score takes no part.
    """

    weights: Mapping[str, float]
    minimum_margin: float = 0.0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        weights = {name: weight for name, weight in self.weights.items() if weight}
        sums = {key: total for key, each in values.items() if (total := weighted_sum(each, weights)) is not None}
        left_out = Counter({"unscored candidate": len(values) - len(sums)})
        chosen = self._choose(sums)
        if isinstance(chosen, str):
            return [], +left_out + Counter([chosen])
        return [chosen], +left_out

    def _choose(self, sums: Mapping[str, float]) -> ChosenPair | str:
        if len(sums) < 2:
            return "fewer than two scored candidates"
        winner, loser = max(sums, key=sums.__getitem__), min(sums, key=sums.__getitem__)
        chosen = ChosenPair(winner, loser, sums[winner], sums[loser])
        if chosen.margin == 0:
            return "tie"
        return chosen if chosen.margin > self.minimum_margin else "margin too small"


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
