"""`auto` in a recipe, replaced by what is fastest when the run is made."""

from pathlib import Path
from typing import Any

import pytest

from agfsync import pipeline
from agfsync import recipe as config
from agfsync.models import dtypes
from agfsync.pipeline.precision import choose_dtypes, chosen_dtypes
from agfsync.recipe import Recipe
from agfsync.store import Run


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say what is fastest to draw in and to train in."""

    def say(drawing: str, training: str) -> None:
        monkeypatch.setattr(dtypes, "fastest_dtype", lambda device, *, training=False: [drawing, trained][training])

        trained = training

    return say


def all_auto(make_recipe: Any) -> Recipe:
    recipe: Recipe = make_recipe(
        candidates={"beside": {"other": {"type": "double", "path": "none"}}},
        judges={"judge": {"type": "double", "path": "none"}},
        training={"precision": "auto"},
    )
    return recipe


def test_every_place_takes_what_is_fastest_for_it(make_recipe: Any, fastest: Any) -> None:
    fastest("fp16", "bf16")

    chosen = choose_dtypes(all_auto(make_recipe))

    assert chosen.model.dtype == chosen.candidates.beside["other"].dtype == "fp16"
    assert {each.dtype for each in chosen.scorers.values()} == {"fp16"}
    assert chosen.training.precision == "bf16"
    assert len(chosen_dtypes(all_auto(make_recipe), chosen)) == 6


def test_a_pairwise_judge_of_a_set_has_a_place_too(make_recipe: Any, fastest: Any) -> None:
    fastest("bf16", "bf16")
    judged = {"votes": {"of": "held-out", "pairwise": {"type": "pairwise", "path": "some/vlm"}}}
    recipe = all_auto(make_recipe).with_({"evaluation.sets": {"held-out": {}, **judged}})

    chosen = choose_dtypes(recipe)

    judge = chosen.evaluation.sets["votes"].pairwise
    assert judge is not None and judge.dtype == "bf16"
    assert chosen_dtypes(recipe, chosen)["evaluation.sets.votes.pairwise.dtype"] == "bf16"


def test_what_the_recipe_says_stays(make_recipe: Any, fastest: Any) -> None:
    fastest("fp16", "fp16")
    recipe = make_recipe(model={"type": "double", "path": "none", "dtype": "bf16"})

    chosen = choose_dtypes(recipe)

    assert (chosen.model.dtype, chosen.training.precision) == ("bf16", "fp32")
    assert "training.precision" not in chosen_dtypes(recipe, chosen)


def test_a_run_goes_on_with_what_it_began_with(make_recipe: Any, fastest: Any, tmp_path: Path) -> None:
    recipe, path = all_auto(make_recipe), tmp_path / "run"
    fastest("bf16", "bf16")
    pipeline.prepare(path, recipe)
    fastest("fp32", "fp32")

    pipeline.prepare(path, recipe)

    with Run.open(path) as run:
        kept = pipeline.read_recipe(run)
        assert "# auto: drawing and judging in bf16, training in bf16 (" in run.recipe_yaml
    assert (kept.model.dtype, kept.training.precision) == ("bf16", "bf16")


def test_the_default_of_every_recipe_is_auto() -> None:
    recipe = config.resolve_recipe("shapes")

    assert recipe.model.dtype == recipe.scorers["vqa"].dtype == recipe.training.precision == "auto"
