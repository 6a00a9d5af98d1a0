"""What the choices share, and what holds for each of them."""

import random
from collections import Counter
from typing import Any

import pytest

from agfsync import catalog
from agfsync.choices import (
    CandidateScores,
    Choice,
    ChosenPair,
    find_margin_fault,
    list_scored,
    split_margin,
    weighted_sum,
)
from agfsync.recipe.types import find_settings

PAPER = {"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10}
OWN = list(catalog.CATALOG["choices"])


def make(name: str, **settings: Any) -> Choice:
    choice: Choice = catalog.build("choices", find_settings("choices", name)(type=name, **settings).model_dump())
    return choice


def test_the_weighted_sum_is_that_of_equation_5() -> None:
    assert weighted_sum({"vqa": 80.0, "clip": 30.0, "aesthetic": 50.0}, PAPER) == pytest.approx(28 + 16.5 + 5)
    assert weighted_sum({"vqa": 80.0, "clip": None, "aesthetic": 50.0}, PAPER) is None
    assert weighted_sum({"vqa": 80.0}, PAPER) is None


def test_the_parts_are_weight_times_difference_and_sum_to_the_margin() -> None:
    winner, loser = {"vqa": 80.0, "clip": 30.0, "aesthetic": 50.0}, {"vqa": 40.0, "clip": 32.0, "aesthetic": 50.0}
    parts = split_margin(winner, loser, PAPER)
    assert parts == pytest.approx({"vqa": 14.0, "clip": -1.1, "aesthetic": 0.0})
    totals = [weighted_sum(each, PAPER) or 0.0 for each in (winner, loser)]
    assert ChosenPair("a", "b", *totals, parts).margin == pytest.approx(sum(parts.values())) == pytest.approx(12.9)


def test_a_candidate_that_lacks_a_judges_score_takes_no_part_and_is_never_0() -> None:
    values = {"a": {"x": 1.0, "y": 0.0}, "b": {"x": 1.0, "y": None}, "c": {"x": 2.0}}
    assert list_scored(values, ["x", "y"]) == ({"a": {"x": 1.0, "y": 0.0}}, Counter({"unscored candidate": 2}))
    assert list_scored(values, ["x"])[0] == {"a": {"x": 1.0}, "b": {"x": 1.0}, "c": {"x": 2.0}}


def test_sums_that_are_equal_on_paper_are_a_tie() -> None:
    assert 0.1 + 0.2 != 0.3 and find_margin_fault(0.1 + 0.2 - 0.3, 0.0) == "tie"
    weights = {"a": 0.1, "b": 0.2, "c": 0.3}
    values = {"x": {"a": 100.0, "b": 100.0, "c": 0.0}, "y": {"a": 0.0, "b": 0.0, "c": 100.0}}
    assert make("best-worst", weights=weights).choose(values) == ([], Counter(["tie"]))
    assert make("every", weights=weights).choose(values) == ([], Counter(["tie"]))


def _draw_values(rng: random.Random) -> dict[str, CandidateScores]:
    few = [0.0, 25.0, 50.0, 50.0, 100.0, None]
    return {
        f"c{number}": {judge: rng.choice(few) if judge != "clip" else rng.uniform(0, 100) for judge in PAPER}
        for number in range(rng.randrange(9))
    }


@pytest.mark.parametrize("name", OWN)
def test_of_any_scores_the_pairs_are_of_the_caption_and_the_winner_lies_above(name: str) -> None:
    rng, made = random.Random(name), 0
    for _ in range(200):
        values = _draw_values(rng)
        pairs, left_out = make(name).choose(values)
        assert make(name).choose(values) == (pairs, left_out)
        assert all(left_out.values()) and (pairs or left_out)
        assert len(pairs) <= find_settings("choices", name)(type=name).count_most_pairs(len(values))  # type: ignore[attr-defined]
        for pair in pairs:
            assert {pair.winner, pair.loser} <= values.keys() and pair.winner != pair.loser and pair.margin > 0
            assert name == "lot" or sum(pair.parts.values()) == pytest.approx(pair.margin)
            assert set(pair.parts) <= set(find_settings("choices", name)(type=name).scorers)  # type: ignore[attr-defined]
        made += len(pairs)
    assert made > 100


@pytest.mark.parametrize("name", [name for name in OWN if name != "lot"])
def test_equal_candidates_are_no_pair(name: str) -> None:
    values = {key: dict.fromkeys(PAPER, 40.0) for key in "abc"}
    pairs, left_out = make(name).choose(values)
    assert pairs == [] and all(reason.startswith("tie") for reason in left_out)


@pytest.mark.parametrize("name", [name for name in OWN if name != "lot"])
def test_a_margin_that_is_too_small_makes_no_pair(name: str) -> None:
    settings = {"minimum_margin": 2.9 if name == "vote" else 99.9}
    values = {"a": {"vqa": 50.0, "clip": 30.0, "aesthetic": 40.0}, "b": {"vqa": 50.0, "clip": 33.0, "aesthetic": 40.0}}
    assert make(name).choose(values)[0] != []
    pairs, left_out = make(name, **settings).choose(values)
    assert pairs == [] and any(reason.startswith("margin too small") for reason in left_out)
