import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agfsync.shapes.scene import Scene, Thing
from agfsync.shapes.training import fidelity
from agfsync.shapes.training.fidelity import prepare_fidelity, rate_fidelity
from agfsync.shapes.training.flaws import FlawedDrawing, draw_flawed
from agfsync.shapes.training.lessons import plan_lesson, teach
from agfsync.shapes.training.vae import build_vae

STAR = Thing("star", "red", "large", "solid", 20.0, 32.0, 10.6)
HEART = replace(STAR, shape="heart", x=48.0)


def test_fidelity_is_the_share_of_whole_things() -> None:
    image = draw_flawed(random.Random(0)).image
    both, one, none = (Scene(things, "cream") for things in ((STAR, HEART), (STAR,), ()))
    assert rate_fidelity(FlawedDrawing(image, (both,), (STAR, HEART))) == 1.0
    assert rate_fidelity(FlawedDrawing(image, (one,), (STAR, HEART))) == 0.5
    # The heart is a thing in one of two readings: the star counts whole, the heart half.
    assert rate_fidelity(FlawedDrawing(image, (both, one), (STAR, HEART))) == 0.75
    assert rate_fidelity(FlawedDrawing(image, (none,), ())) == 1.0


@pytest.mark.long
def test_a_few_steps_lower_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_vae().save_pretrained(tmp_path / "vae")
    monkeypatch.setattr(fidelity, "FIDELITY_PLAN", plan_lesson(steps=30, batch=32, learning_rate=3e-3, warmup=1))
    monkeypatch.setattr(fidelity, "FIDELITY_POOL", 100)
    pupil = prepare_fidelity(tmp_path)
    losses: list[float] = []
    teach(pupil, tmp_path / "checkpoints", lambda figures: losses.append(figures["loss"]))
    assert sum(losses[-5:]) < sum(losses[:5])
    pupil.save(tmp_path / "fidelity")
    loaded = fidelity.FidelityNetwork.load(str(tmp_path / "fidelity"))
    assert torch.isfinite(loaded(torch.zeros(1, 3, 64, 64))).all()
