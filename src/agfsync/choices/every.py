"""The choice `every`: a pair of every two candidates of a caption with different weighted sums."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from agfsync.choices import (
    TOO_FEW,
    CandidateScores,
    ChosenPair,
    find_margin_fault,
    list_scored,
    split_margin,
    weighted_sum,
)


@dataclass(frozen=True, slots=True)
class EveryCouple:
    """Every two candidates, in the order of drawing; the higher weighted sum S wins. At most N (N - 1) / 2 pairs.

    Couples with a tie or too small a margin are counted. A candidate that lacks a weighted score is left out.
    """

    weights: Mapping[str, float]
    minimum_margin: float = 0.0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        weights = {name: weight for name, weight in self.weights.items() if weight}
        scored, left_out = list_scored(values, weights)
        if len(scored) < 2:
            return [], left_out + Counter([TOO_FEW])
        sums = {key: weighted_sum(each, weights) or 0.0 for key, each in scored.items()}
        chosen = []
        for first, second in combinations(scored, 2):
            winner, loser = (first, second) if sums[first] >= sums[second] else (second, first)
            if fault := find_margin_fault(sums[winner] - sums[loser], self.minimum_margin):
                left_out[fault] += 1
                continue
            parts = split_margin(scored[winner], scored[loser], weights)
            chosen.append(ChosenPair(winner, loser, sums[winner], sums[loser], parts))
        return chosen, left_out
