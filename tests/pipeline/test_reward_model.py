"""A recipe that trains a reward model and then a generator with it: PPO and reward gradients on tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agfsync import pipeline
from agfsync.engine.progress import SilentProgress
from agfsync.recipe import dump_recipe
from agfsync.records import Score
from agfsync.stages.selection import find_training_selectors
from agfsync.store import Run
from agfsync.study.running import run_study
from agfsync.study.settings import load_study

pytestmark = pytest.mark.long

NETWORK = {"type": "clip-head", "path": "embedded:clip", "hidden": [8, 4], "frozen": 1.0, "device": "cpu"}
SECTION = {"method": {"type": "bradley-terry", "network": NETWORK}, "steps": 3, "batch": 6, "learning_rate": 1e-3}
SECTION |= {"precision": "fp32", "validation": 0.25, "test": 0.25}
VP = {"vp": {"type": "vp-score", "path": "run:reward", "device": "cpu", "dtype": "fp32"}}
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"type": "policy-gradient", "loss": "ppo", "reward": {"vp": 1.0}, "group": 2, "steps": 2},
    "reward-gradient": {"type": "reward-gradient", "reward": {"vp": 1.0}, "steps": 2},
}


def make_visionprefer(make_recipe: Any, generator: Path, method: str, watch: bool = False, **changes: Any) -> Any:
    model = {"type": "stable-diffusion", "path": str(generator), "device": "cpu", "sampling": {"steps": 2}}
    training = {"method": METHODS[method], "steps": 2, "batch": 2, "learning_rate": 1e-3, "precision": "fp32"}
    if watch:
        training["watch"] = {"by": "late", "every": 1, "captions": 3}
    return make_recipe(
        VP | {"late": {"type": "double", "path": "late"}},
        captions={"writer": "double", "count": 24, "held_out": 4},
        model=model,
        pairs={"choose": {"type": "every", "weights": {"red": 1.0, "vqa": 0.5}}},
        reward=SECTION | changes,
        training=training,
        evaluation={"resamples": 50},
    )


def train(path: Path, *arguments: Any, **changes: Any) -> Any:
    recipe = make_visionprefer(*arguments, **changes)
    if path.exists():
        pipeline.prepare(path, recipe, update=True)
    else:
        pipeline.prepare(path, recipe)
    pipeline.run(path)
    return recipe


def test_ppo_raises_the_reward_model_while_another_scorer_watches(
    tmp_path: Path, make_recipe: Any, tiny_generator: Path
) -> None:
    recipe = train(tmp_path / "run", make_recipe, tiny_generator, "ppo", watch=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(0 <= line["reward"] <= 100 for line in lines[1:]) and all("watched_late" in line for line in lines)
    with Run.open(tmp_path / "run") as run:
        judged = {row.scorer for row in run.read("evaluation_scores", Score)}
        assert judged == {"red", "vqa", "vp", "late"}
        finished = run.find_finished("evaluation")
        assert finished is not None and finished.notes["judges"]["vp"]["prompts"] == 4
        # The reward model learnt from what red and vqa chose.
        selectors = find_training_selectors(run, recipe)
        assert selectors is not None and [each.name for each in selectors] == ["red", "vqa", "vp"]
    assert pipeline.is_up_to_date(tmp_path / "run")


def test_another_reward_model_trains_the_generator_again_and_scores_anew(
    tmp_path: Path, make_recipe: Any, tiny_generator: Path
) -> None:
    train(tmp_path / "run", make_recipe, tiny_generator, "ppo")
    with Run.open(tmp_path / "run") as run:
        marks = {name: run.find_finished(name).mark for name in ("pairs", "reward", "training")}  # type: ignore[union-attr]
        before = {row.key for row in run.read("evaluation_scores", Score) if row.scorer == "vp"}
        others = {row.key for row in run.read("evaluation_scores", Score) if row.scorer == "vqa"}
    train(tmp_path / "run", make_recipe, tiny_generator, "ppo", seed=5)
    with Run.open(tmp_path / "run") as run:
        after = {name: run.find_finished(name).mark for name in marks}  # type: ignore[union-attr]
        assert after["pairs"] == marks["pairs"]
        assert after["reward"] != marks["reward"] and after["training"] != marks["training"]
        assert not before & {row.key for row in run.read("evaluation_scores", Score) if row.scorer == "vp"}
        # The base's images are the same, and so are their scores by others.
        assert others & {row.key for row in run.read("evaluation_scores", Score) if row.scorer == "vqa"}


@pytest.mark.parametrize(("other", "share"), [({"training.steps": 1}, True), ({"reward.share": 0.9}, False)])
def test_arms_of_a_study_share_the_reward_model_if_all_have_the_same(
    tmp_path: Path, make_recipe: Any, tiny_generator: Path, other: dict[str, Any], share: bool
) -> None:
    recipe = make_visionprefer(make_recipe, tiny_generator, "reward-gradient")
    (tmp_path / "tiny.yaml").write_text(dump_recipe(recipe))
    study = {"base": "tiny.yaml", "resamples": 50, "arms": {"a": {}, "b": other}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    run_study(load_study(str(tmp_path / "study.yaml")), tmp_path / "out", SilentProgress())
    marks, vp = [], []
    for place in ("base", "arms/a/seed-0", "arms/b/seed-0"):
        with Run.open(tmp_path / "out" / place) as run:
            found = run.find_finished("reward")
            marks.append(found and found.mark)
            vp.append({row.key for row in run.read("evaluation_scores", Score) if row.scorer == "vp"})
    assert len(set(marks)) == (1 if share else 3) and (marks[0] is None) == (not share)
    assert len(vp[0]) == (4 if share else 0) and len(vp[1]) == len(vp[2]) == 8
    assert vp[0] <= vp[1] & vp[2]


def test_a_gradient_goes_through_the_reward_model(tmp_path: Path, make_recipe: Any, tiny_generator: Path) -> None:
    train(tmp_path / "run", make_recipe, tiny_generator, "reward-gradient")
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["gradient_norm"] > 0 for line in lines)
