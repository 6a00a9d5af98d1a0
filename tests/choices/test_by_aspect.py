from collections import Counter

from agfsync.choices import ChosenPair
from agfsync.choices.by_aspect import ByAspect


def test_each_judge_makes_a_pair_of_its_own() -> None:
    values = {"a": {"x": 1.0, "y": 9.0}, "b": {"x": 5.0, "y": 2.0}, "c": {"x": 3.0, "y": 4.0}}
    assert ByAspect(["x", "y"]).choose(values) == (
        [ChosenPair("b", "a", 5.0, 1.0, {"x": 4.0}, "x"), ChosenPair("a", "b", 9.0, 2.0, {"y": 7.0}, "y")],
        Counter(),
    )


def test_who_lacks_one_judges_score_takes_part_in_the_others_pairs() -> None:
    values = {"a": {"x": 1.0, "y": 7.0}, "b": {"x": None, "y": 2.0}, "c": {"x": 1.0, "y": 3.0}}
    (pair,), left_out = ByAspect(["x", "y"]).choose(values)
    assert (pair.winner, pair.loser) == ("a", "b")
    assert left_out == {"tie, by x": 1, "unscored candidate, by x": 1}


def test_every_couple_that_differs_is_a_pair_but_for_those_a_judge_contradicts() -> None:
    values = {"a": {"x": 1.0, "y": 9.0}, "b": {"x": 5.0, "y": 9.0}, "c": {"x": 3.0, "y": 4.0}}
    ties = {"x": {frozenset("ab")}, "y": {frozenset("ab")}, "z": {frozenset("bc")}}
    pairs, left_out = ByAspect(["x", "y"], couples="every").choose(values, ties=ties)
    assert [(p.aspect, p.winner, p.loser, p.margin) for p in pairs] == [
        ("x", "c", "a", 2.0),
        ("x", "b", "c", 2.0),
        ("y", "a", "c", 5.0),
        ("y", "b", "c", 5.0),
    ]
    # By y, a and b are a tie in any case.
    assert left_out == {"contradicted in another order, by x": 1, "tie, by y": 1}


def test_contradicted_extremes_give_no_pair() -> None:
    values = {"a": {"x": 1.0}, "b": {"x": 5.0}, "c": {"x": 3.0}}
    assert ByAspect(["x"]).choose(values, ties={"x": {frozenset("ab")}}) == (
        [],
        {"contradicted in another order, by x": 1},
    )
