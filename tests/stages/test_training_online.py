"""A method that draws in training, through the stage: rewards that fail are left out, counted and told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from doubles import Brightness

from agfsync.engine.progress import SilentProgress
from agfsync.recipe import dump_recipe
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.stages import captions, questions, training
from agfsync.stages.context import Context
from agfsync.store import Run


class Told(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.slow
def test_images_without_a_reward_are_told_with_their_reasons(
    tmp_path: Path, make_recipe: Any, tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: Brightness, items: Sequence[Item]) -> list[Measurement | Unscored]:
        return [Unscored("no reply"), *(Measurement(float(place)) for place in range(1, len(items)))]

    monkeypatch.setattr(Brightness, "score", score)
    generator = {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu", "sampling": {"steps": 2}}
    method = {"type": "nft", "reward": {"red": 1.0}, "group": 3}
    settings = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "precision": "fp32", "method": method}
    recipe = make_recipe(model=generator, training=settings)
    told = Told()
    with Run.create(tmp_path / "run", dump_recipe(recipe)) as run:
        context = Context(run, recipe, told, "digest")
        captions.run(context)
        questions.run(context)
        notes = training.run(context)
    # Two prompts a step, drawn two images at a time: the first of each of three batches of each step has none.
    assert notes["unrewarded"] == {"no red score: no reply": 6}
    assert notes["without_reward"] == pytest.approx(0.5)
    assert "training: images without a reward were left out: no red score: no reply (6)" in told.lines
    assert (tmp_path / "run" / "model" / "model.json").exists()
