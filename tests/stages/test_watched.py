"""A judge watched in the training stage: the same model, one curve more; and a training that it ends."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles import Brightness
from safetensors.torch import load_file

from agfsync.engine.progress import SilentProgress
from agfsync.errors import RecipeError, RunError
from agfsync.formats import Selector
from agfsync.pipeline import plan_stages
from agfsync.recipe import Recipe
from agfsync.records import Score, digest
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.stages import evaluation, shaping, training, watched
from agfsync.stages.context import Context
from agfsync.stages.selection import digest_judge

SHORT = {"steps": 4, "batch": 3, "learning_rate": 1e-3, "checkpoint_every": 2, "precision": "fp32"}
METHOD = {"beta": 500.0}
WATCH = {"by": "other", "every": 2, "captions": 3}
OTHER = {"other": {"type": "double", "path": "other"}}
UNET = "unet/diffusion_pytorch_model.safetensors"


class Shown(SilentProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []
        self.steps = 0
        self.lines: list[str] = []

    def advance(self, count: int = 1, **figures: float) -> None:
        self.steps += count if figures else 0
        self.figures.append(figures)

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def make_settings(make_recipe: Any, tiny_generator: Path) -> Any:
    """A function from changes of the training to the recipe of a tiny Stable Diffusion with a judge to watch."""
    model = {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu", "sampling": {"steps": 2}}

    def make(scorer: str = "other", **changes: Any) -> Recipe:
        judges = {"other": OTHER["other"] | {"path": scorer}}
        return make_recipe(judges=judges, model=model, training=SHORT | {"method": METHOD} | changes)

    return make


@pytest.fixture
def paired(open_done: Callable[..., Context], make_settings: Any) -> Context:
    """A run with pairs of images that the tiny generator drew."""
    context = open_done(make_settings(), "captions", "questions", "candidates", "scores", "pairs")
    context.run.finish("candidates", "digest", 1.0, {})
    return context


def train(context: Context, recipe: Recipe, progress: SilentProgress | None = None) -> Mapping[str, Any]:
    told = digest(shaping.training(recipe))
    return training.run(replace(context, recipe=recipe, digest=told, progress=progress or SilentProgress()))


def lines(context: Context) -> list[dict[str, float]]:
    text = (context.run.path / "training" / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in text.splitlines()]


def test_the_curve_begins_at_the_base_and_the_model_is_the_same(paired: Context, make_settings: Any) -> None:
    train(paired, make_settings())
    plain, expected = lines(paired), load_file(paired.run.path / "model" / UNET)
    shutil.rmtree(paired.run.path / "training")
    shown = Shown()
    notes = train(paired, make_settings(watch=WATCH), shown)
    found, rows = load_file(paired.run.path / "model" / UNET), lines(paired)
    assert all(found[name].equal(expected[name]) for name in expected)
    assert [row["step"] for row in rows if "watched_other" in row] == [0, 2, 4]
    assert [{k: v for k, v in row.items() if k != "watched_other"} for row in rows[1:]] == plain
    means = {int(row["step"]): row["watched_other"] for row in rows if "watched_other" in row}
    watch = notes["watch"]
    assert (watch["judge"], watch["base"], watch["last_step"], watch["last"]) == ("other", means[0], 4, means[4])
    assert watch["best"] == max(means.values()) and json.dumps(notes) and notes["steps"] == 4
    assert shown.figures[-1]["other"] == means[4] and shown.steps == 4
    assert not list((paired.run.path / "training").glob("watch/*"))


def test_the_first_and_the_last_measurement_are_what_the_evaluation_finds(paired: Context, make_settings: Any) -> None:
    """Of the same captions, from the same seeds."""
    recipe = make_settings(watch=WATCH)
    train(paired, recipe)
    paired.run.finish("training", "digest", 1.0, {})
    context = replace(paired, recipe=recipe)
    evaluation.run(context)
    keys = sorted({row["caption_key"] for row in context.run.rows("evaluation_images", ["caption_key"])})[:3]
    images = {
        (row["generator"], row["caption_key"]): row["key"]
        for row in context.run.rows("evaluation_images", ["key", "caption_key", "generator"])
    }
    values = {s.candidate_key: s.value for s in context.run.read("evaluation_scores", Score) if s.scorer == "other"}
    first, *_, last = (row["watched_other"] for row in lines(context) if "watched_other" in row)
    for model, mean in (("base", first), ("aligned", last)):
        assert sum(values[images[model, key]] or 0.0 for key in keys) / 3 == pytest.approx(mean, abs=0.5)


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watched judge gives less and less of the network's 2nd measurement; the accuracies are as if they rose."""
    values = iter([50.0, 60.0, 30.0] * 9)

    def score(self: Brightness, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        value = next(values)
        return [Measurement(value) for _ in items]

    monkeypatch.setattr(Brightness, "score", score)
    monkeypatch.setattr("agfsync.training.watching.average_raised", lambda lines, step, metric: float(step))


def test_a_training_that_it_ends_has_the_best_steps_model(paired: Context, make_settings: Any, falling: None) -> None:
    """That of a training of two steps."""
    constant = {"schedule": "constant", "steps": 8}
    shown, recipe = Shown(), make_settings(watch=WATCH | {"stop": True}, **constant)
    notes = train(paired, recipe, shown)
    assert [row["step"] for row in lines(paired)] == [0, 1, 2, 3, 4]
    assert notes["watch"] == {
        "judge": "other",
        "base": 50.0,
        "best": 60.0,
        "best_step": 2,
        "last": 30.0,
        "last_step": 4,
        "stopped_at": 4,
    }
    assert [line for line in shown.lines if "stopped" in line] == [
        "training stopped at step 4: other fell to 30.0 from 60.0 at step 2, whose weights are the result"
    ]
    found, card = load_file(paired.run.path / "model" / UNET), (paired.run.path / "model" / "README.md").read_text()
    assert "| stopped by | other if it falls, measured every 2 steps |" in card
    again = train(paired, recipe)
    assert again["watch"] == notes["watch"] and again["steps"] == 4
    resumed = load_file(paired.run.path / "model" / UNET)
    train(paired, make_settings(**constant | {"steps": 2}))
    expected = load_file(paired.run.path / "model" / UNET)
    assert all(found[name].equal(expected[name]) and resumed[name].equal(found[name]) for name in expected)


def test_a_rounded_base_with_a_lora_draws_too(paired: Context, make_settings: Any) -> None:
    train(paired, make_settings(watch=WATCH, lora={"rank": 2}, precision="bf16", gradient_checkpointing=True))
    assert [row["step"] for row in lines(paired) if "watched_other" in row] == [0, 2, 4]


def test_a_judge_that_leaves_some_unscored_says_so_and_one_that_scores_none_ends_it(
    paired: Context, make_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Brightness.score
    monkeypatch.setattr(Brightness, "score", lambda self, items: [Unscored("dark"), *score(self, items)[1:]])
    shown = Shown()
    train(paired, make_settings(watch=WATCH), shown)
    assert shown.lines.count("training: watch: no other score: dark (1)") == 3
    assert lines(paired)[0]["watched_other_unscored"] == pytest.approx(1 / 3)
    monkeypatch.setattr(Brightness, "score", lambda self, items: [Unscored("dark") for _ in items])
    with pytest.raises(RunError, match=r"no held-out caption has a score: no other score: dark \(3\)"):
        train(paired, make_settings(watch=WATCH, steps=5))


def test_a_judge_that_chose_a_sets_pairs_is_refused(
    paired: Context, make_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_settings(watch=WATCH)
    recipe = recipe.model_copy(update={"pairs": recipe.pairs.model_copy(update={"source": "/a/set"})})
    chose = [Selector("theirs", 1.0, digest_judge(recipe.scorers["other"]), "other")]
    monkeypatch.setattr(watched, "find_selectors", lambda run, recipe: chose)
    with pytest.raises(RecipeError, match="'other', which chose the pairs of /a/set: name a scorer that nothing"):
        train(paired, recipe)


def test_a_watch_affects_a_result_only_where_it_may_stop(make_settings: Any) -> None:
    plain, watching = make_settings(), make_settings(watch=WATCH)
    stopping = make_settings(watch=WATCH | {"stop": True})
    assert shaping.training(watching) == shaping.training(plain) != shaping.training(stopping)
    others = [make_settings(watch=WATCH | {"stop": True} | change) for change in ({"every": 1}, {"captions": 2})]
    others.append(make_settings("another", watch=WATCH | {"stop": True}))
    assert len({digest(shaping.training(each)) for each in [stopping, *others]}) == 4
    after = {each.name: each.after for each in plan_stages(watching)}, {s.name: s.after for s in plan_stages(stopping)}
    assert [each["training"] for each in after] == [("pairs",), ("pairs", "questions")]
