"""The choice `by-aspect`: pairs by each judge separately, of the best and the worst candidate or of all couples."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agfsync.choices import CandidateScores, ChosenPair
from agfsync.choices.best_worst import BestWorst
from agfsync.choices.every import EveryCouple

CONTRADICTED = "contradicted in another order"
"""The reason why a couple with different scores gives no pair."""


@dataclass(frozen=True, slots=True)
class ByAspect:
    """The best and the worst candidate by each judge separately (of equals, the first), or all couples that differ.

    With `couples` "extremes", each judge makes at most one pair per caption; with "every", at most N (N - 1) / 2. A
    couple in a judge's `ties`, on which the judge contradicts itself, gives no pair and is counted. Judges may
    disagree: the winner of one can be the loser of another, and several judges may choose the same couple, each as a
    separate pair. A candidate that lacks a judge's score is left out only from the pairs of this judge.

    Args:
        minimum_margin: on each judge's own scale; on a common scale with `pairs.normalise`.
    """

    judges: Sequence[str]
    minimum_margin: float = 0.0
    couples: Literal["extremes", "every"] = "extremes"

    def choose(
        self,
        values: Mapping[str, CandidateScores],
        ties: Mapping[str, Collection[frozenset[str]]] | None = None,
    ) -> tuple[list[ChosenPair], Counter[str]]:
        rule = EveryCouple if self.couples == "every" else BestWorst
        chosen: list[ChosenPair] = []
        left_out: Counter[str] = Counter()
        for judge in self.judges:
            pairs, why = rule({judge: 1.0}, self.minimum_margin).choose(values)
            tied = (ties or {}).get(judge, ())
            kept = [pair for pair in pairs if frozenset((pair.winner, pair.loser)) not in tied]
            chosen += [replace(pair, aspect=judge) for pair in kept]
            why += Counter({CONTRADICTED: len(pairs) - len(kept)})
            left_out.update({f"{reason}, by {judge}": count for reason, count in why.items()})
        return chosen, left_out
