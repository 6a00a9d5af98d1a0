import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from agfsync.errors import StoreError
from agfsync.files.tensors import read_tensors, write_tensors
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.state import TrainingState


def trained(steps: int, ema: float | None = 0.5) -> TrainingState:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState.create(layer, "adamw", 0.01, torch.amp.GradScaler("cpu", enabled=False), ema)
    for step in range(steps):
        state.optimizer.zero_grad()
        layer(torch.ones(1, 2, 4, 4)).square().sum().backward()
        state.optimizer.step()
        if state.average is not None:
            state.average.update(state.parameters, step + 1)
    return state


def test_weights_and_moments_come_back(tmp_path: Path) -> None:
    state, fresh = trained(3), trained(0)
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(3, state)
    assert checkpoints.find_last_step() == checkpoints.restore(fresh) == 3
    assert state.average is not None and fresh.average is not None
    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, fresh.parameters[name])
        assert torch.equal(state.average.weights[name], fresh.average.weights[name])
        kept, back = state.optimizer.state[parameter], fresh.optimizer.state[fresh.parameters[name]]
        assert kept.keys() == back.keys()
        for key in kept:
            assert torch.equal(kept[key], back[key]) and kept[key].stride() == back[key].stride()


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    state = trained(1)
    for step in (2, 4, 10):
        Checkpoints(tmp_path, "a").save(step, state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000004.safetensors", "step-0000010.safetensors"]


def test_those_of_other_settings_dont_count_and_make_room(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "a").save(8, trained(1))
    (tmp_path / "step-0000012.safetensors.partial").write_bytes(b"cut off by a kill")
    other = Checkpoints(tmp_path, "b")
    assert other.find_last_step() == other.restore(trained(0)) == 0
    other.save(2, trained(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000002.safetensors"]


def test_one_that_isnt_whole_counts_as_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(2, trained(1))
    checkpoints.save(4, trained(1))
    last = tmp_path / "step-0000004.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    assert checkpoints.restore(trained(0)) == 2


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": torch.ones(2)}, {"step": "1"})

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="disk is full"):
            write_tensors(path, {"x": torch.zeros(2)}, {"step": "2"})
    assert list(tmp_path.iterdir()) == [path]
    found = read_tensors(path)
    assert found is not None and found.metadata["step"] == "1" and torch.equal(found.tensors["x"], torch.ones(2))
