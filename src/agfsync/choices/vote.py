"""The choice `vote`: the judges vote on every couple; the scales don't matter (BalancedDPO, arXiv:2503.12575)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from agfsync.choices import TOO_FEW, CandidateScores, ChosenPair, find_margin_fault, join_outcome, list_scored

Couple = tuple[str, str]


@dataclass(frozen=True, slots=True)
class MajorityVote:
    """Winner and loser by the judges' votes: a judge has one vote per couple, and none if it scores both equally.

    BalancedDPO labels a given couple by the majority. For N candidates, this choice considers the couples in which the
    first candidate has the majority. It takes the one with the largest difference between the first's and the second's
    Copeland scores (couples won minus couples lost against all others); of equals, the one with the larger majority,
    then the first drawn. The scores are the votes for each. A candidate that lacks a judge's score is left out.

    Args:
        minimum_margin: the difference in votes must be larger than this.
    """

    judges: Sequence[str]
    minimum_margin: float = 0.0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        scored, left_out = list_scored(values, self.judges)
        return join_outcome(self._choose(scored), left_out)

    def _choose(self, scored: Mapping[str, Mapping[str, float]]) -> ChosenPair | str:
        if len(scored) < 2:
            return TOO_FEW
        votes = {(one, other): cast_votes(scored[one], scored[other]) for one, other in permutations(scored, 2)}
        margins = {couple: sum(of.values()) for couple, of in votes.items()}
        if fault := find_margin_fault(max(margins.values()), self.minimum_margin):
            return fault
        clear = [couple for couple, margin in margins.items() if not find_margin_fault(margin, self.minimum_margin)]
        wins = count_couples_won(margins)
        winner, loser = max(clear, key=lambda couple: (wins[couple[0]] - wins[couple[1]], margins[couple]))
        parts = votes[winner, loser]
        given, against = (sum(vote == side for vote in parts.values()) for side in (1, -1))
        return ChosenPair(winner, loser, float(given), float(against), parts)


def cast_votes(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return each judge's vote between two candidates: 1 for `one`, -1 for `other`, 0 for neither.

    >>> cast_votes({"vqa": 3.0, "clip": 1.0}, {"vqa": 1.0, "clip": 1.0})
    {'vqa': 1.0, 'clip': 0.0}
    """
    return {judge: float((one[judge] > other[judge]) - (one[judge] < other[judge])) for judge in one}


def count_couples_won(margins: Mapping[Couple, float]) -> Counter[str]:
    """Return the number of couples that each candidate wins minus those that it loses (Copeland's method).

    `margins` has the margin of the votes of every ordered couple.
    """
    wins: Counter[str] = Counter()
    for (one, _), margin in margins.items():
        wins[one] += (margin > 0) - (margin < 0)
    return wins
