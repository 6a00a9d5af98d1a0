"""The choice `pareto`: winner from the upper, loser from the lower Pareto front of all judges (CaPO, arXiv:2502.02588).

It needs no weights and no scales: a caption has the same fronts for raw scores, ranks and calibrated win rates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agfsync.choices import (
    TOO_FEW,
    CandidateScores,
    ChosenPair,
    find_margin_fault,
    join_outcome,
    list_scored,
    split_margin,
)
from agfsync.choices.normalising import Normaliser

Scored = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class ParetoFronts:
    """A winner from the upper front (no candidate dominates it) that dominates a loser from the lower front.

    The candidates of the lower front dominate no other. One candidate dominates another if no judge scores it lower and
    at least one scores it higher, so that no judge prefers a loser. CaPO draws a random couple of the two fronts in
    each training step. This choice is deterministic and takes one couple per caption: the one with the largest
    difference in mean rank; of equals, the first drawn. If no candidate dominates another, the caption gives no pair.

    The total score of a candidate is its mean rank: the share of the other candidates that it beats, averaged over all
    judges, in 0..100. A candidate that lacks a judge's score is left out.
    """

    judges: Sequence[str]
    minimum_margin: float = 0.0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        scored, left_out = list_scored(values, self.judges)
        return join_outcome(self._choose(scored), left_out)

    def _choose(self, scored: Scored) -> ChosenPair | str:
        if len(scored) < 2:
            return TOO_FEW
        upper, lower = find_fronts(scored)
        couples = [(one, other) for one in upper for other in lower if dominates(scored[one], scored[other])]
        if not couples:
            differ = len({tuple(each.items()) for each in scored.values()}) > 1
            return "no candidate dominates another" if differ else "tie"
        ranks, share = Normaliser("rank").normalise(scored), dict.fromkeys(self.judges, 1 / len(self.judges))
        totals = {key: sum(rank or 0.0 for rank in of.values()) / len(self.judges) for key, of in ranks.items()}
        winner, loser = max(couples, key=lambda couple: totals[couple[0]] - totals[couple[1]])
        parts = split_margin(ranks[winner], ranks[loser], share)
        chosen = ChosenPair(winner, loser, totals[winner], totals[loser], parts)
        return find_margin_fault(chosen.margin, self.minimum_margin) or chosen


def dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return True if no judge scores `one` lower than `other` and at least one scores it higher.

    >>> dominates({"vqa": 2.0, "clip": 1.0}, {"vqa": 1.0, "clip": 1.0})
    True
    """
    return all(one[judge] >= other[judge] for judge in one) and any(one[judge] > other[judge] for judge in one)


def find_fronts(scored: Scored) -> tuple[list[str], list[str]]:
    """Return the candidates that no other dominates, and those that dominate no other, in the order of drawing.

    A candidate that neither dominates another nor is dominated is on both fronts.
    """
    upper = [key for key in scored if not any(dominates(scored[other], scored[key]) for other in scored)]
    lower = [key for key in scored if not any(dominates(scored[key], scored[other]) for other in scored)]
    return upper, lower
