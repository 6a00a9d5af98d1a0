import dataclasses
from collections import Counter
from typing import Any

import pytest

from agfsync.errors import BudgetError
from agfsync.records import Candidate, Pair
from agfsync.stages import candidates, captions, pairs, questions, scores
from agfsync.stages.choosing import BestWorst, ChosenPair, weighted_sum
from agfsync.stages.context import Context
from agfsync.stages.pairs import ScoredCaption

PAPER = {"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10}


def test_the_weighted_sum_is_that_of_equation_5() -> None:
    assert weighted_sum({"vqa": 80.0, "clip": 30.0, "aesthetic": 50.0}, PAPER) == pytest.approx(28 + 16.5 + 5)
    assert weighted_sum({"vqa": 80.0, "clip": None, "aesthetic": 50.0}, PAPER) is None
    assert weighted_sum({"vqa": 80.0}, PAPER) is None


def test_the_winner_is_the_best_and_the_loser_the_worst() -> None:
    values = {"a": {"s": 40.0}, "b": {"s": 90.0}, "c": {"s": 10.0}}
    assert BestWorst({"s": 0.5}).choose(values) == ([ChosenPair("b", "c", 45.0, 5.0)], Counter())


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


def test_an_unscored_candidate_takes_no_part_and_is_counted() -> None:
    values = {"a": {"s": 1.0}, "b": {"s": None}, "c": {"s": 3.0}}
    sifted = pairs.pair_candidates(ScoredCaption("caption", values, []), BestWorst({"s": 1.0}))
    (made,) = sifted.records
    assert isinstance(made, Pair)
    assert (made.winner_key, made.loser_key, made.margin) == ("c", "a", 2.0)
    assert sifted.dropped == {"unscored candidate": 1}


@pytest.fixture
def scored(context: Context) -> Context:
    for stage in (captions, questions, candidates, scores):
        stage.run(context)
    return context


def test_each_caption_gives_a_pair_of_its_own_candidates(scored: Context) -> None:
    notes = pairs.run(scored)
    of = {c.key: c.caption_key for c in scored.run.read("candidates", Candidate)}
    made = list(scored.run.read("pairs", Pair))
    assert notes["pairs"] == len(made) > 6
    assert notes["pairs"] + sum(notes["dropped"].values()) == notes["captions"] == 12
    assert all(of[p.winner_key] == of[p.loser_key] == p.caption_key and p.margin > 0 for p in made)


def test_a_scorer_of_no_weight_changes_no_pair(scored: Context, make_recipe: Any) -> None:
    def made(**weights: float) -> list[Pair]:
        pairs.run(dataclasses.replace(scored, recipe=make_recipe(pairs={"choose": {"weights": weights}})))
        return list(scored.run.read("pairs", Pair))

    assert made(red=1.0) == made(red=1.0, vqa=0.0) != made(red=1.0, vqa=0.5)


def test_no_pair_at_all_is_told(scored: Context, make_recipe: Any) -> None:
    strict = dataclasses.replace(
        scored, recipe=make_recipe(pairs={"choose": {"weights": {"red": 1.0}, "minimum_margin": 1000}})
    )
    with pytest.raises(BudgetError, match=r"no caption gives a pair \(margin too small \d+.*see pairs.choose"):
        pairs.run(strict)
