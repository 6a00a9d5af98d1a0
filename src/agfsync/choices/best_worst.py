"""The choice `best-worst`: the best and the worst candidate of each caption by the weighted sum (Eq. 5 to 7)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agfsync.choices import (
    TOO_FEW,
    CandidateScores,
    ChosenPair,
    find_margin_fault,
    join_outcome,
    list_scored,
    split_margin,
    weighted_sum,
)


@dataclass(frozen=True, slots=True)
class BestWorst:
    """Winner = argmax S, loser = argmin S, with S = sum of w_i s_i; of equal sums, the first.

    A candidate that lacks a weighted score is left out.
    """

    weights: Mapping[str, float]
    minimum_margin: float = 0.0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        weights = {name: weight for name, weight in self.weights.items() if weight}
        scored, left_out = list_scored(values, weights)
        return join_outcome(self._choose(scored, weights), left_out)

    def _choose(self, scored: Mapping[str, CandidateScores], weights: Mapping[str, float]) -> ChosenPair | str:
        if len(scored) < 2:
            return TOO_FEW
        sums = {key: weighted_sum(each, weights) or 0.0 for key, each in scored.items()}
        winner, loser = max(sums, key=sums.__getitem__), min(sums, key=sums.__getitem__)
        parts = split_margin(scored[winner], scored[loser], weights)
        chosen = ChosenPair(winner, loser, sums[winner], sums[loser], parts)
        return find_margin_fault(chosen.margin, self.minimum_margin) or chosen
