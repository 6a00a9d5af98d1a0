from collections import Counter

import pytest

from agfsync.choices import ChosenPair
from agfsync.choices.best_worst import BestWorst


def test_the_winner_is_the_best_and_the_loser_the_worst() -> None:
    values = {"a": {"s": 40.0}, "b": {"s": 90.0}, "c": {"s": 10.0}}
    assert BestWorst({"s": 0.5}).choose(values) == ([ChosenPair("b", "c", 45.0, 5.0, {"s": 40.0})], Counter())


def test_of_equals_the_first_is_taken() -> None:
    values = {"a": {"s": 1.0}, "b": {"s": 2.0}, "c": {"s": 2.0}, "d": {"s": 1.0}}
    (choice,), _ = BestWorst({"s": 1.0}).choose(values)
    assert (choice.winner, choice.loser, choice.margin) == ("b", "a", 1.0)


@pytest.mark.parametrize(
    ("values", "minimum", "reason"),
    [
        ({"a": 5.0, "b": 5.0}, 0.0, "tie"),
        ({"a": 5.0, "b": 6.0}, 1.0, "margin too small"),
        ({"a": 5.0, "b": None}, 0.0, "fewer than two scored candidates"),
        ({}, 0.0, "fewer than two scored candidates"),
    ],
)
def test_where_there_is_no_pair_it_says_why(values: dict[str, float | None], minimum: float, reason: str) -> None:
    chosen, left_out = BestWorst({"s": 1.0}, minimum).choose({key: {"s": value} for key, value in values.items()})
    assert chosen == [] and left_out[reason] == 1


def test_a_scorer_of_weight_0_is_not_needed_and_has_no_part() -> None:
    values = {"a": {"s": 1.0, "t": None}, "b": {"s": 2.0}}
    (choice,), left_out = BestWorst({"s": 1.0, "t": 0.0}).choose(values)
    assert (choice.winner, choice.parts, left_out) == ("b", {"s": 1.0}, Counter())
