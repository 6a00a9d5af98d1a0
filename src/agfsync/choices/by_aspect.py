"""The choice `by-aspect`: pairs by each judge alone, of the best and the worst candidate or of every two."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agfsync.choices import CandidateScores, ChosenPair
from agfsync.choices.best_worst import BestWorst
from agfsync.choices.every import EveryCouple

CONTRADICTED = "contradicted in another order"
"""Why a couple that its judge's scores tell apart gives no pair."""


@dataclass(frozen=True, slots=True)
class ByAspect:
    """Best and worst by each judge alone, the first of equals, or every two candidates that differ.

    With `couples` "extremes" there are up to as many pairs of a caption as judges, with "every" up to N (N - 1) / 2
    times as many. On a couple among its `ties` a judge contradicts itself: it gives no pair and is counted.
    Judges may disagree: the winner of one can be the loser of another, and the same couple may be chosen by several,
    each time as a pair of its own. A candidate that lacks a judge's score takes no part in that judge's pair alone.

    Args:
        minimum_margin: on each judge's own scale; on one scale with `pairs.normalise`.
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
