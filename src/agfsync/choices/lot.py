"""The choice `lot`: winner and loser drawn by lot, as a control that no judge had a part in."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agfsync.choices import CandidateScores, ChosenPair
from agfsync.records import derive_seed


@dataclass(frozen=True, slots=True)
class DrawnByLot:
    """Two of a caption's candidates by lot: no score is read, and each ordered couple has the same chance.

    A method that gains as much from these pairs as from judged ones didn't gain by the judges. The lots depend on the
    seed and the candidates' keys alone. The scores are the labels 1 and 0, as in a pair set.
    """

    seed: int = 0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        if len(values) < 2:
            return [], Counter(["fewer than two candidates"])
        winner, loser, *_ = sorted(values, key=lambda key: (derive_seed("lot", self.seed, key), key))
        return [ChosenPair(winner, loser, 1.0, 0.0)], Counter()
