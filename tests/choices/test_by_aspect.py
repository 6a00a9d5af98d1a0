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
