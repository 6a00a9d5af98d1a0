"""What this machine is measured to have."""

from pathlib import Path

import pytest
import torch

from agfsync.commands.doctor import machine
from agfsync.commands.doctor.loads import estimate_drawing, estimate_training
from agfsync.recipe import resolve_recipe


def test_a_speed_is_measured() -> None:
    speed = machine.measure_speed("cpu")
    assert 1e8 < speed.rate(torch.float32) < 1e15
    assert 1e8 < speed.bandwidth < 1e13
    assert 1e-8 < speed.overhead < 1e-2


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = machine.read_memory("cpu")
    assert there is not None and there > 1e9
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.read_memory("cpu") == 1e6
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.read_memory("cpu") or 0) >= there


def test_room_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert machine.read_free_space(tmp_path / "not" / "yet" / "made") > 0
    assert not (tmp_path / "not").exists()


@pytest.mark.slow
def test_the_shapes_models_take_what_was_measured_of_them() -> None:
    """The process's peak in MB in bf16, on two cores: docs/doctor.md."""
    recipe = resolve_recipe("shapes")
    generator = recipe.model.model_copy(update={"dtype": "bf16"})
    for images, measured in ((8, 559), (64, 648)):
        reckoned = (estimate_drawing(generator, True, images, 1).memory + machine.PROCESS) / 1e6
        assert reckoned == pytest.approx(measured, rel=0.15)
    for batch, measured in ((24, 946), (96, 1970)):
        training = recipe.training.model_copy(update={"batch": batch, "precision": "bf16"})
        reckoned = (estimate_training(generator, training, True, 0).memory + machine.PROCESS) / 1e6
        assert reckoned == pytest.approx(measured, rel=0.15)
