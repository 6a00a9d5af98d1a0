"""Controls: forks that train without the feedback, and the comparison with them."""

from pathlib import Path
from typing import Any

import pytest

from agfsync import pipeline
from agfsync.errors import RunError
from agfsync.records import Comparison
from agfsync.stages.controls import _compare, locate_control, make_control_recipe
from agfsync.store import Run

pytestmark = pytest.mark.long

TRAINING = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "precision": "fp32", "method": {"beta": 500.0}}


@pytest.fixture
def recipe_with_controls(make_recipe: Any, tiny_generator: Path) -> Any:
    generator = {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu", "sampling": {"steps": 2}}
    return make_recipe(model=generator, training=TRAINING, evaluation={"controls": ["random-sft", "by-lot"]})


def read_evaluation(path: Path) -> list[Comparison]:
    with Run.open(path) as run:
        return list(run.read("evaluation", Comparison))


def test_controls_are_trained_and_compared_on_the_runs_own_captions(tmp_path: Path, recipe_with_controls: Any) -> None:
    path = tmp_path / "run"
    pipeline.prepare(path, recipe_with_controls)
    pipeline.run(path)
    with Run.open(path) as run:
        ended = run.find_finished("controls")
        drawn = run.find_finished("candidates")
    assert ended is not None and drawn is not None
    assert set(ended.notes["controls"]) == {"random-sft", "by-lot"}
    ours = {(row.judge, row.caption_key): row for row in read_evaluation(path) if not row.element_type}
    for control, judges in ended.notes["controls"].items():
        place = locate_control(path, control)
        with Run.open(place) as fork:
            shared = fork.find_finished("candidates")
            assert shared is not None and shared.mark == drawn.mark
        theirs = {(row.judge, row.caption_key): row for row in read_evaluation(place) if not row.element_type}
        assert {key: row.base for key, row in ours.items()} == {key: row.base for key, row in theirs.items()}
        for judge, figures in judges.items():
            gains = [ours[key].aligned - theirs[key].aligned for key in ours if key[0] == judge]
            assert figures["prompts"] == len(gains)
            assert figures["difference"] == pytest.approx(sum(gains) / len(gains))
    assert pipeline.is_up_to_date(path)
    assert "Against controls" in (path / "report.html").read_text()


def test_a_control_of_other_candidates_is_made_anew(tmp_path: Path, recipe_with_controls: Any) -> None:
    path = tmp_path / "run"
    recipe = recipe_with_controls.with_({"evaluation.controls": ["random-sft"]})
    pipeline.prepare(path, recipe)
    pipeline.run(path)
    pipeline.prepare(path, recipe.with_({"candidates.embedding_noise": 0.7}), update=True)
    pipeline.run(path)
    with Run.open(path) as run, Run.open(locate_control(path, "random-sft")) as fork:
        ours, theirs = (each.find_finished("candidates") for each in (run, fork))
    assert ours is not None and theirs is not None and ours.mark == theirs.mark


def test_without_controls_there_is_no_such_stage(tmp_path: Path, make_recipe: Any) -> None:
    assert "controls" not in [stage.name for stage in pipeline.plan_stages(make_recipe())]
    with pytest.raises(RunError, match="needs no stage controls"):
        pipeline.plan_stages(make_recipe(), "controls")


def test_a_control_has_no_controls_and_keeps_the_trainings_budget(recipe_with_controls: Any) -> None:
    control = make_control_recipe(recipe_with_controls, "random-sft")
    assert control.evaluation.controls == () and control.training.method.type == "random-sft"
    assert control.training.steps == recipe_with_controls.training.steps
    lot = make_control_recipe(recipe_with_controls, "by-lot")
    assert lot.pairs.choose.type == "lot" and lot.training.method == recipe_with_controls.training.method


def test_the_difference_is_paired_over_shared_captions(recipe_with_controls: Any) -> None:
    figures = _compare(
        "random-sft", "oracle", {"a": 10.0, "b": 20.0, "c": 5.0}, {"b": 14.0, "a": 8.0}, recipe_with_controls
    )
    assert (figures["prompts"], figures["difference"], figures["aligned"], figures["control"]) == (2, 4.0, 15.0, 11.0)
    assert _compare("random-sft", "oracle", {"a": 1.0}, {}, recipe_with_controls) == {"prompts": 0}
