from collections import Counter

import pytest

from agfsync.choices import ChosenPair
from agfsync.choices.vote import MajorityVote, cast_votes

JUDGES = ["x", "y", "z"]


def _of(**scores: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    return {key: dict(zip(JUDGES, of, strict=True)) for key, of in scores.items()}


def test_a_judge_that_scores_both_alike_has_no_vote() -> None:
    assert cast_votes({"x": 2.0, "y": 1.0, "z": 0.0}, {"x": 1.0, "y": 1.0, "z": 9.0}) == {"x": 1, "y": 0, "z": -1}


def test_the_majority_wins_however_far_apart_a_judge_sees_them() -> None:
    values = _of(a=(10.1, 20.1, 0.0), b=(10.0, 20.0, 100.0))
    assert MajorityVote(JUDGES).choose(values) == (
        [ChosenPair("a", "b", 2.0, 1.0, {"x": 1.0, "y": 1.0, "z": -1.0})],
        Counter(),
    )


def test_of_many_the_winner_wins_and_the_loser_loses_most_couples() -> None:
    # a beats b, c and d; b beats c and d; c beats d, each by two votes of three.
    values = _of(a=(4, 4, 1), b=(3, 3, 2), c=(2, 2, 3), d=(1, 1, 4))
    (pair,), _ = MajorityVote(JUDGES).choose(values)
    assert (pair.winner, pair.loser, pair.winner_score, pair.loser_score) == ("a", "d", 2.0, 1.0)


def test_in_a_circle_the_clearest_majority_then_the_first_drawn_decides() -> None:
    # a over b, b over c, c over a by two votes: each wins one couple and loses one.
    values = _of(a=(3, 1, 2), b=(2, 3, 1), c=(1, 2, 3))
    (pair,), _ = MajorityVote(JUDGES).choose(values)
    assert (pair.winner, pair.loser, pair.margin) == ("a", "b", 1.0)


@pytest.mark.parametrize(
    ("minimum", "pairs", "why"), [(0.0, 1, {}), (1.0, 0, {"margin too small": 1}), (2.0, 0, {"margin too small": 1})]
)
def test_a_minimum_margin_counts_votes(minimum: float, pairs: int, why: dict[str, int]) -> None:
    values = _of(a=(2, 2, 1), b=(1, 1, 2))
    chosen, left_out = MajorityVote(JUDGES, minimum).choose(values)
    assert (len(chosen), left_out) == (pairs, why)


def test_a_split_vote_is_a_tie_and_an_unscored_candidate_takes_no_part() -> None:
    values = {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 2.0, "y": 1.0}, "c": {"x": 9.0, "y": None}}
    assert MajorityVote(["x", "y"]).choose(values) == ([], Counter({"tie": 1, "unscored candidate": 1}))
