"""The choice `calibrated`: best and worst by a weighted sum of expected win rates (CaPO, arXiv:2502.02588)."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agfsync.choices import CandidateScores, ChosenPair, list_scored
from agfsync.choices.best_worst import BestWorst


@dataclass(frozen=True, slots=True)
class CalibratedBestWorst:
    """Best and worst by C = sum of w_j c_j, where c_j is the expected win rate by judge j, in 0..100.

    The win rates of all judges have the same scale, so that the weights decide, and not the spreads of the raw scores.
    If the weights sum to 1, C is in 0..100 too. A candidate that lacks a weighted score is left out, also as opponent.

    Args:
        scale: judge -> its points per unit of log-odds; 1 for a judge without an entry.
    """

    weights: Mapping[str, float]
    minimum_margin: float = 0.0
    scale: Mapping[str, float] = field(default_factory=dict)

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        weights = {name: weight for name, weight in self.weights.items() if weight}
        scored, left_out = list_scored(values, weights)
        calibrated: dict[str, dict[str, float]] = {key: {} for key in scored}
        for judge in weights:
            of_judge = {key: each[judge] for key, each in scored.items()}
            for key, rate in expect_win_rates(of_judge, self.scale.get(judge, 1.0)).items():
                calibrated[key][judge] = rate
        chosen, why = BestWorst(weights, self.minimum_margin).choose(calibrated)
        return chosen, left_out + why


def expect_win_rates(values: Mapping[str, float], scale: float = 1.0) -> dict[str, float]:
    """Return the expected win rate of each candidate against the others, in 0..100, by the Bradley-Terry model.

    It is 100 times the mean of sigmoid((s_i - s_k) / scale) over the other candidates k. Equal values count one half. A
    single candidate, which has no opponents, has 50.

    >>> expect_win_rates({"a": 1.0, "b": 1.0})
    {'a': 50.0, 'b': 50.0}
    """
    rates = {}
    for key, value in values.items():
        wins = [_sigmoid((value - other) / scale) for rival, other in values.items() if rival != key]
        rates[key] = 100 * math.fsum(wins) / len(wins) if wins else 50.0
    return rates


def _sigmoid(logit: float) -> float:
    odds = math.exp(-abs(logit))
    return 1 / (1 + odds) if logit >= 0 else odds / (1 + odds)
