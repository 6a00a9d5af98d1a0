from collections import Counter
from itertools import product

import pytest

from agfsync.choices.calibrated import expect_win_rates
from agfsync.choices.pareto import ParetoFronts, dominates, find_fronts


def _of(*points: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {key: {"x": x, "y": y} for key, (x, y) in zip("abcdefgh", points, strict=False)}


def test_the_fronts_are_those_that_none_dominates_and_that_dominate_none() -> None:
    # d and e lie below b; a, b and c trade x for y; f is comparable with no other.
    scored = _of((0, 9), (5, 5), (9, 1), (3, 2), (4, 4), (0.5, 8))
    assert find_fronts(scored) == (["a", "b", "c", "f"], ["a", "c", "d", "f"])


def test_a_candidate_dominates_if_none_says_less_and_one_more() -> None:
    one, other = {"x": 1.0, "y": 2.0}, {"x": 1.0, "y": 1.0}
    assert dominates(one, other) and not dominates(other, one) and not dominates(one, one)
    assert not dominates({"x": 2.0, "y": 0.0}, {"x": 0.0, "y": 2.0})


def test_of_several_couples_the_one_of_the_widest_ranks_is_taken() -> None:
    # Upper front a, b; lower front c, d. b dominates both, a only c.
    values = _of((2, 9), (9, 8), (1, 1), (3, 0))
    assert find_fronts(values) == (["a", "b"], ["c", "d"])
    (pair,), left_out = ParetoFronts(["x", "y"]).choose(values)
    # Ranks of x: a 1/3, b 1, c 0, d 2/3; of y: a 1, b 2/3, c 1/3, d 0.
    assert (pair.winner, pair.loser, left_out) == ("b", "c", Counter())
    assert pair.winner_score == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert pair.loser_score == pytest.approx(100 * (0 + 1 / 3) / 2)
    assert pair.parts == pytest.approx({"x": 50.0, "y": 50 / 3})


def test_of_equal_couples_the_first_drawn_is_taken() -> None:
    values = _of((2, 2), (2, 2), (1, 1), (1, 1))
    (pair,), _ = ParetoFronts(["x", "y"]).choose(values)
    assert (pair.winner, pair.loser) == ("a", "c")


def test_no_judge_prefers_a_loser_whoever_is_best_on_average() -> None:
    # By any weighted sum with enough weight on x, a beats b; but y prefers b, so they are no couple.
    values = _of((100, 1), (0, 2))
    assert ParetoFronts(["x", "y"]).choose(values) == ([], Counter(["no candidate dominates another"]))
    assert ParetoFronts(["x"]).choose(values)[0][0].winner == "a"


def test_there_is_a_pair_where_any_candidate_dominates_another() -> None:
    points = list(product(range(3), repeat=2))
    for three in product(points, repeat=3):
        values = _of(*three)
        chosen, left_out = ParetoFronts(["x", "y"]).choose(values)
        exists = any(dominates(one, other) for one in values.values() for other in values.values())
        assert bool(chosen) == exists and bool(left_out) == (not exists)
        if chosen:
            assert dominates(values[chosen[0].winner], values[chosen[0].loser])
            upper, lower = find_fronts(values)
            assert chosen[0].winner in upper and chosen[0].loser in lower


def test_calibration_changes_no_front_and_no_pair() -> None:
    values = _of((20, 90), (21, 80), (19, 10), (23, 40), (18, 95))
    rates = {judge: expect_win_rates({key: of[judge] for key, of in values.items()}) for judge in "xy"}
    calibrated = {key: {judge: rates[judge][key] for judge in "xy"} for key in values}
    assert find_fronts(calibrated) == find_fronts(values)
    (one,), (other,) = (ParetoFronts(["x", "y"]).choose(each)[0] for each in (values, calibrated))
    assert (one.winner, one.loser, one.margin) == (other.winner, other.loser, pytest.approx(other.margin))
