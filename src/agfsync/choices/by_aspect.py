"""The choice `by-aspect`: a pair for each judge, of the candidates that it scores highest and lowest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agfsync.choices import CandidateScores, ChosenPair
from agfsync.choices.best_worst import BestWorst


@dataclass(frozen=True, slots=True)
class ByAspect:
    """Best and worst by each judge alone, the first of equals: up to as many pairs a caption as there are judges.

    Judges may disagree: the winner of one can be the loser of another, and the same couple may be chosen by several,
    each time as a pair of its own. A candidate that lacks a judge's score takes no part in that judge's pair alone.

    Args:
        minimum_margin: on each judge's own scale; on one scale with `pairs.normalise`.
    """

    judges: Sequence[str]
    minimum_margin: float = 0.0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        chosen: list[ChosenPair] = []
        left_out: Counter[str] = Counter()
        for judge in self.judges:
            pairs, why = BestWorst({judge: 1.0}, self.minimum_margin).choose(values)
            chosen += [replace(pair, aspect=judge) for pair in pairs]
            left_out.update({f"{reason}, by {judge}": count for reason, count in why.items()})
        return chosen, left_out
