from collections import Counter

from agfsync.choices import ChosenPair
from agfsync.choices.every import EveryCouple


def test_every_two_candidates_are_a_pair_in_the_order_of_drawing() -> None:
    values = {"a": {"s": 40.0}, "b": {"s": 90.0}, "c": {"s": 10.0}}
    chosen, left_out = EveryCouple({"s": 0.5}).choose(values)
    assert chosen == [
        ChosenPair("b", "a", 45.0, 20.0, {"s": 25.0}),
        ChosenPair("a", "c", 20.0, 5.0, {"s": 15.0}),
        ChosenPair("b", "c", 45.0, 5.0, {"s": 40.0}),
    ]
    assert left_out == Counter()


def test_ties_and_small_margins_are_counted_by_couple() -> None:
    values = {"a": {"s": 40.0}, "b": {"s": 40.0}, "c": {"s": 43.0}, "d": {"s": 60.0}, "e": {"s": None}}
    chosen, left_out = EveryCouple({"s": 1.0}, minimum_margin=3.0).choose(values)
    assert [(pair.winner, pair.loser) for pair in chosen] == [("d", "a"), ("d", "b"), ("d", "c")]
    assert left_out == {"tie": 1, "margin too small": 2, "unscored candidate": 1}


def test_a_single_candidate_makes_no_pair() -> None:
    assert EveryCouple({"s": 1.0}).choose({"a": {"s": 1.0}}) == ([], Counter(["fewer than two scored candidates"]))
