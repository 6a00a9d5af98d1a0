import random
from statistics import fmean, pstdev

import pytest

from agfsync.choices.normalising import Normaliser, Spread, measure_spreads


def test_a_z_score_is_less_the_mean_over_the_deviation() -> None:
    values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]  # mean 5, deviation 2
    spread = Spread.of(values)
    assert (spread.mean, spread.deviation) == (5.0, 2.0) == (fmean(values), pstdev(values))
    assert [spread.find_z_score(value) for value in (2.0, 5.0, 9.0)] == [-1.5, 0.0, 2.0]


def test_a_rank_is_the_share_of_the_others_below_and_half_of_the_equals() -> None:
    rng = random.Random(0)
    for _ in range(100):
        values = [float(rng.randrange(5)) for _ in range(rng.randrange(2, 9))]
        spread = Spread.of(values)
        for place, value in enumerate(values):
            others = values[:place] + values[place + 1 :]
            naive = sum((value > other) + (value == other) / 2 for other in others) / len(others)
            assert spread.find_rank(value) == pytest.approx(100 * naive)


def test_equal_and_single_scores_say_nothing() -> None:
    for values in ([0.1] * 3, [7.0]):
        assert Spread.of(values).find_z_score(values[0]) == 0.0
        assert Spread.of(values).find_rank(values[0]) == 50.0


def test_over_a_caption_each_judge_is_normalised_by_its_own_scores_and_none_stays_none() -> None:
    values = {"a": {"x": 10.0, "y": 1.0}, "b": {"x": 30.0, "y": None}, "c": {"x": 20.0, "y": 3.0}, "d": {}}
    ranks = Normaliser("rank").normalise(values)
    assert ranks == {"a": {"x": 0.0, "y": 0.0}, "b": {"x": 100.0, "y": None}, "c": {"x": 50.0, "y": 100.0}, "d": {}}
    scores = Normaliser("z-score").normalise(values)
    assert scores["c"] == {"x": 0.0, "y": 1.0} and scores["b"]["y"] is None
    assert scores["b"]["x"] == pytest.approx(10 / pstdev([10, 20, 30]))


def test_over_the_run_a_caption_that_differs_little_stays_close() -> None:
    spreads = {"x": Spread.of([0.0, 10.0, 49.0, 51.0, 90.0, 100.0])}
    close = {"a": {"x": 49.0}, "b": {"x": 51.0}}
    over_caption, over_run = (Normaliser("z-score", s).normalise(close) for s in (None, spreads))
    assert over_caption == {"a": {"x": -1.0}, "b": {"x": 1.0}}
    assert over_run["b"]["x"] == pytest.approx(1 / pstdev([0, 10, 49, 51, 90, 100]))
    assert Normaliser("rank", spreads).normalise(close) == {"a": {"x": 40.0}, "b": {"x": 60.0}}


@pytest.mark.parametrize("by", ["z-score", "rank"])
def test_its_identity_follows_the_runs_scores_and_not_their_order(by: str) -> None:
    values = [random.Random(1).uniform(0, 100) for _ in range(50)]
    one, same, other = (
        Normaliser(by, {"x": Spread.of(each)}).identity  # type: ignore[arg-type]
        for each in (values, reversed(values), [*values[:-1], values[-1] + 1])
    )
    assert one == same != other
    assert Normaliser(by).identity == [by, "caption"]  # type: ignore[arg-type]


def test_a_judge_that_scored_nothing_of_a_caption_has_an_empty_spread() -> None:
    spreads = measure_spreads({"a": {"x": None}, "b": {"x": None}})
    assert len(spreads["x"].ordered) == 0
    assert Normaliser("rank").normalise({"a": {"x": None}}) == {"a": {"x": None}}
