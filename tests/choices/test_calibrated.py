import math
from collections import Counter

import pytest

from agfsync.choices.best_worst import BestWorst
from agfsync.choices.calibrated import CalibratedBestWorst, expect_win_rates


def test_the_win_rate_is_the_mean_of_bradley_terry_over_the_others() -> None:
    # Odds of 1, 3 and 9 to each other: sigmoid(ln 3) = 3/4, sigmoid(ln 9) = 9/10.
    values = {"a": 0.0, "b": math.log(3), "c": math.log(9)}
    rates = expect_win_rates(values)
    by_hand = {"a": (1 / 4 + 1 / 10) / 2, "b": (3 / 4 + 1 / 4) / 2, "c": (9 / 10 + 3 / 4) / 2}
    assert rates == pytest.approx({key: 100 * rate for key, rate in by_hand.items()})
    assert expect_win_rates({key: 7 * value for key, value in values.items()}, scale=7) == pytest.approx(rates)
    assert sum(rates.values()) == pytest.approx(50 * 3)


def test_a_wide_spread_gives_ranks_and_no_overflow() -> None:
    assert expect_win_rates({"a": 0.0, "b": 1e6, "c": -1e6}) == pytest.approx({"a": 50.0, "b": 100.0, "c": 0.0})
    assert expect_win_rates({"alone": 3.0}) == {"alone": 50.0}


def test_the_weights_decide_and_not_the_scales() -> None:
    # vqa spreads over 100 points, clip over 4: in raw points vqa decides at any weight, calibrated it doesn't.
    values = {"a": {"vqa": 100.0, "clip": 20.0}, "b": {"vqa": 50.0, "clip": 24.0}, "c": {"vqa": 0.0, "clip": 22.0}}
    weights = {"vqa": 0.3, "clip": 0.7}
    (raw,), _ = BestWorst(weights).choose(values)
    (calibrated,), _ = CalibratedBestWorst(weights).choose(values)
    assert (raw.winner, raw.loser) == ("a", "c")
    assert calibrated.winner == "b"
    clip = {"a": 20.0, "b": 24.0, "c": 22.0}
    naive = {
        key: 0.3 * {"a": 100.0, "b": 50.0, "c": 0.0}[key]
        + 0.7 * 100 * sum(1 / (1 + math.exp(other - clip[key])) for name, other in clip.items() if name != key) / 2
        for key in clip
    }
    assert calibrated.loser == min(naive, key=naive.__getitem__)
    assert calibrated.winner_score == pytest.approx(naive["b"])
    assert calibrated.loser_score == pytest.approx(naive[calibrated.loser])


def test_a_larger_scale_makes_a_judge_less_sure() -> None:
    values = {"a": {"s": 0.0}, "b": {"s": 10.0}}
    (sure,), _ = CalibratedBestWorst({"s": 1.0}).choose(values)
    (unsure,), _ = CalibratedBestWorst({"s": 1.0}, scale={"s": 10.0}).choose(values)
    assert sure.margin == pytest.approx(100, abs=0.1)
    assert unsure.margin == pytest.approx(100 * (2 / (1 + math.exp(-1)) - 1))


def test_who_lacks_a_score_is_no_opponent_either() -> None:
    values = {"a": {"s": 1.0, "t": 1.0}, "b": {"s": 2.0, "t": 1.0}, "c": {"s": 99.0, "t": None}}
    (pair,), left_out = CalibratedBestWorst({"s": 1.0, "t": 1.0}).choose(values)
    assert (pair.winner, pair.loser, left_out) == ("b", "a", Counter({"unscored candidate": 1}))
    assert pair.parts == pytest.approx({"s": 100 * (2 / (1 + math.exp(-1)) - 1), "t": 0.0})
    assert CalibratedBestWorst({"s": 1.0}).choose({}) == ([], Counter(["fewer than two scored candidates"]))
