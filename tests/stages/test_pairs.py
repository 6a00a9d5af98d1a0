import dataclasses
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from agfsync import catalog, pipeline
from agfsync.choices.best_worst import BestWorst
from agfsync.choices.by_aspect import ByAspect
from agfsync.choices.normalising import Normaliser, Spread
from agfsync.errors import BudgetError
from agfsync.recipe import Recipe
from agfsync.records import Candidate, Caption, Pair, Score, digest
from agfsync.stages import pairs
from agfsync.stages.context import Context
from agfsync.stages.scored import ScoredCaption
from agfsync.store import Run


def test_an_unscored_candidate_takes_no_part_and_is_counted() -> None:
    values = {"a": {"s": 1.0}, "b": {"s": None}, "c": {"s": 3.0}}
    sifted = pairs.pair_candidates(ScoredCaption("caption", values, []), BestWorst({"s": 1.0}))
    (made,) = sifted.records
    assert isinstance(made, Pair)
    assert (made.winner_key, made.loser_key, made.margin) == ("c", "a", 2.0)
    assert sifted.dropped == {"unscored candidate": 1}


@pytest.fixture
def scored(open_done: Callable[..., Context], recipe: Recipe) -> Context:
    return open_done(recipe, "captions", "questions", "candidates", "scores")


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


def _rerun(context: Context, make_recipe: Any, **pairs_settings: Any) -> tuple[Any, list[Pair], list[str]]:
    """Run the stage with other settings; return its notes, its pairs, and its units' keys."""
    other = dataclasses.replace(context, recipe=make_recipe(pairs=pairs_settings))
    notes = pairs.run(other)
    return notes, list(context.run.read("pairs", Pair)), list(context.run.list_selected("pairs"))


def test_the_notes_say_how_much_each_judge_contributed_also_after_a_resume(scored: Context) -> None:
    notes = pairs.run(scored)
    said = notes["contributions"]
    values = {(s.candidate_key, s.scorer): s.value for s in scored.run.read("scores", Score)}
    made = list(scored.run.read("pairs", Pair))
    for judge, weight in {"red": 1.0, "vqa": 0.5}.items():
        parts = [weight * (values[p.winner_key, judge] - values[p.loser_key, judge]) for p in made]  # type: ignore[operator]
        assert said[judge]["mean"] == pytest.approx(fmean(parts))
        assert said[judge]["for"] == sum(part > 0 for part in parts) / len(parts)
        assert said[judge]["against"] == sum(part < 0 for part in parts) / len(parts)
    assert sum(each["mean"] for each in said.values()) == pytest.approx(notes["mean_margin"])
    assert pairs.run(scored) == notes


def test_a_default_changes_no_unit(scored: Context, make_recipe: Any) -> None:
    _, _, keys = _rerun(scored, make_recipe)
    settings = {"type": "best-worst", "weights": {"red": 1.0, "vqa": 0.5}, "minimum_margin": 0.0}
    assert _rerun(scored, make_recipe, choose=settings, normalise="none", share=1.0)[2] == keys
    # What a unit was named by before there was anything but best-worst.
    caption = next(pairs.read_normalised_captions(scored.run, scored.recipe, None))
    weights = {"weights": {"red": 1.0, "vqa": 0.5}}
    assert keys[0] == digest(
        "pairs", 1, "best-worst", weights, caption.caption_key, list(caption.values), caption.score_keys
    )


@pytest.mark.parametrize("by", ["z-score", "rank"])
def test_over_the_caption_the_pairs_are_those_of_normalised_scores(scored: Context, make_recipe: Any, by: Any) -> None:
    _, made, keys = _rerun(scored, make_recipe, normalise=by)
    assert made and keys != _rerun(scored, make_recipe)[2]
    rule = BestWorst({"red": 1.0, "vqa": 0.5})
    for caption in pairs.read_normalised_captions(scored.run, scored.recipe, None):
        chosen = rule.choose(Normaliser(by).normalise(caption.values))[0]
        of = [pair for pair in made if pair.caption_key == caption.caption_key]
        assert [(p.winner_key, p.margin) for p in of] == [(p.winner, p.margin) for p in chosen]


def test_over_the_run_one_changed_score_changes_every_unit(scored: Context, make_recipe: Any) -> None:
    settings: dict[str, Any] = {"normalise": "z-score", "normalise_over": "run"}
    notes, made, keys = _rerun(scored, make_recipe, **settings)
    values = [s.value for s in scored.run.read("scores", Score) if s.scorer == "red" and s.value is not None]
    winner = next(s.value for s in scored.run.read("scores", Score) if s.candidate_key == made[0].winner_key)
    assert winner is not None
    spread = Spread.of(values)
    assert spread.find_z_score(winner) == pytest.approx((winner - fmean(values)) / pstdev(values))
    assert _rerun(scored, make_recipe, **settings) == (notes, made, keys)
    first = next(scored.run.read("scores", Score))
    (unit,) = (u for u, rows in scored.run.rows_by_unit("scores", ["key"]) if first.key in {r["key"] for r in rows})
    units = [u if u != unit else "changed" for u in scored.run.list_selected("scores")]
    changed = dataclasses.replace(first, key="changed", value=(first.value or 0.0) + 0.5)
    scored.run.commit("scores", {"changed": [changed]}, Score.schema)
    scored.run.select("scores", units)
    assert not set(_rerun(scored, make_recipe, **settings)[2]) & set(keys)
    settings["normalise_over"] = "caption"
    kept = _rerun(scored, make_recipe, **settings)[2]
    scored.run.select("scores", [u if u != "changed" else unit for u in units])
    assert len(set(kept) & set(_rerun(scored, make_recipe, **settings)[2])) == len(kept) - 1


def test_a_larger_share_contains_the_smaller_one(scored: Context, make_recipe: Any) -> None:
    made = {share: set(_rerun(scored, make_recipe, share=share)[2]) for share in (0.3, 0.6, 1.0)}
    assert set() < made[0.3] < made[0.6] < made[1.0]
    notes, of_half, _ = _rerun(scored, make_recipe, share=0.6)
    assert notes["captions"] == len(made[0.6]) < 12
    assert notes["pairs"] + sum(notes["dropped"].values()) == notes["captions"]
    assert {p.caption_key for p in of_half} < {c.key for c in scored.run.read("captions", Caption)}
    many = sum(pairs.is_in_share(f"caption {number}", 0.25) for number in range(4000))
    assert many == pytest.approx(1000, abs=100)


@pytest.mark.parametrize("name", catalog.CATALOG["choices"])
def test_every_choice_makes_pairs_whose_keys_differ(scored: Context, make_recipe: Any, name: str) -> None:
    names = {"judges": ["red", "vqa"]} if name in ("pareto", "vote", "by-aspect") else {"weights": {"red": 1, "vqa": 1}}
    choose = {"type": name, **(names if name != "lot" else {})}
    notes, made, _ = _rerun(scored, make_recipe, choose=choose)
    assert len({pair.key for pair in made}) == len(made) == notes["pairs"] > 0
    assert all(pair.margin > 0 for pair in made)
    assert set(notes["contributions"]) == (set() if name == "lot" else {"red", "vqa"})
    recipe = make_recipe(pairs={"choose": choose})
    parts = pairs.find_parts(scored.run, recipe, made[0])
    assert sum(parts.values()) == pytest.approx(0.0 if name == "lot" else made[0].margin)


def test_the_same_couple_chosen_by_several_judges_is_several_pairs() -> None:
    values = {"a": {"x": 1.0, "y": 1.0}, "b": {"x": 2.0, "y": 3.0}}
    sifted = pairs.pair_candidates(ScoredCaption("caption", values, []), ByAspect(["x", "y"]))
    first, second = (pair for pair in sifted.records if isinstance(pair, Pair))
    assert (first.winner_key, first.margin) == ("b", 1.0) and (second.winner_key, second.margin) == ("b", 2.0)
    assert first.key == digest("pair", "b", "a") != second.key


def test_a_lot_needs_no_score(tmp_path: Path, make_recipe: Any) -> None:
    pipeline.prepare(tmp_path / "run", make_recipe(pairs={"choose": "lot"}, scores={"by": None}))
    pipeline.run(tmp_path / "run", until="pairs")
    with Run.open(tmp_path / "run") as run:
        assert run.count_rows("scores") == 0 and run.count_rows("pairs") == 12
        drawn = {c.key: c.caption_key for c in run.read("candidates", Candidate)}
        for pair in run.read("pairs", Pair):
            assert drawn[pair.winner_key] == drawn[pair.loser_key] == pair.caption_key
