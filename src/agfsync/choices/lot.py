"""The choice `lot`: a random winner and loser, as a control that uses no judge."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agfsync.choices import CandidateScores, ChosenPair
from agfsync.records import derive_seed


@dataclass(frozen=True, slots=True)
class DrawnByLot:
    """Two random candidates of a caption: no score is used, and each ordered couple has the same probability.

    If a method gains equally from these pairs and from judged ones, the judges aren't the cause. The draw depends only
    on the seed and the candidates' keys. The scores are the labels 1 and 0, as in a pair set.
    """

    seed: int = 0

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        if len(values) < 2:
            return [], Counter(["fewer than two candidates"])
        winner, loser, *_ = sorted(values, key=lambda key: (derive_seed("lot", self.seed, key), key))
        return [ChosenPair(winner, loser, 1.0, 0.0)], Counter()
