import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agfsync.errors import DivergedError, ModelError
from agfsync.shapes.training import lessons
from agfsync.shapes.training.lessons import Lesson, Pupil, WholeBatch, has_fast_bf16, plan_lesson, teach
from agfsync.training.objective import TrainingPlan

PLAN = plan_lesson(steps=8, batch=4, learning_rate=0.05, warmup=3, checkpoint_every=4)


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Inputs(WholeBatch):
    inputs_BD: Tensor


@dataclass(frozen=True)
class TinyLesson(Lesson):
    """A loss with chance in it: from the step's own generator, and from torch's (the dropout's)."""

    bad: float = 1.0

    def collect(self, actor: Any, step: int, rows: Tensor) -> Sequence[Inputs]:
        rng = self.seed_step(step)
        return [Inputs(torch.tensor([[rng.gauss(0, 1) for _ in range(3)] for _ in range(4)]) + torch.randn(4, 3) / 9)]

    def loss(self, actor: Any, batch: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        error = (actor.network(batch.inputs_BD).squeeze(1) - batch.inputs_BD.sum(dim=1)).square().mean() * self.bad
        return error, {"loss": error.detach(), "error": error.detach()}


@dataclass(frozen=True)
class HalfFrozen(TinyLesson):
    def choose_parameters(self, network: nn.Module) -> None:
        network.requires_grad_(True)[0].requires_grad_(False)  # type: ignore[index]


def tiny(first: TrainingPlan = PLAN, kind: type[TinyLesson] = TinyLesson) -> Pupil:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))
    return Pupil(network, [kind("one", first), TinyLesson("two", PLAN)], lambda folder: None)


def train_tiny(folder: Path, pupil: Pupil, killed_at: int = 0) -> list[float]:
    """Train in `folder` and return the losses that were reported; at `killed_at` it dies right after that step."""
    losses = []

    def report(figures: Mapping[str, float]) -> None:
        assert figures.keys() == {"loss", "error"}
        losses.append(figures["loss"])
        if len(losses) == killed_at:
            raise Killed

    teach(pupil, folder, report)
    return losses


def weights(pupil: Pupil) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in pupil.network.parameters()]


@pytest.mark.parametrize("killed_at", [1, 5, 8, 13])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, killed_at: int) -> None:
    whole = tiny()
    losses = train_tiny(tmp_path / "whole", whole)
    assert len(losses) == 16
    with pytest.raises(Killed):
        train_tiny(tmp_path / "stopped", tiny(), killed_at)
    resumed = tiny()
    # The checkpoint after four steps is written before the step is reported.
    assert train_tiny(tmp_path / "stopped", resumed) == losses[killed_at // 4 * 4 :]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_a_training_that_is_done_only_loads_its_weights(tmp_path: Path) -> None:
    first, second = tiny(), tiny()
    train_tiny(tmp_path, first)
    assert train_tiny(tmp_path, second) == [] and not second.network.training
    assert [lesson.find_checkpoints(tmp_path).find_last_step() for lesson in second.lessons] == [8, 8]
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_nothing_is_done_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert tiny().lessons[0].find_checkpoints(tmp_path).find_last_step() == 0


def test_checkpoints_of_another_plan_are_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path, tiny())
    with pytest.raises(ModelError, match=r"one was made by another plan of training: remove it to begin again"):
        train_tiny(tmp_path, tiny(replace(PLAN, steps=20)))
    rarer = tiny(replace(PLAN, checkpoint_every=2)).lessons[0]
    assert rarer.find_checkpoints(tmp_path).find_last_step() == PLAN.steps


def test_the_loss_falls_and_the_seed_matters(tmp_path: Path) -> None:
    long = replace(PLAN, steps=80, checkpoint_every=80)
    losses = train_tiny(tmp_path / "one", tiny(long))
    assert sum(losses[70:80]) < 0.5 * sum(losses[:10])
    assert losses != train_tiny(tmp_path / "other", tiny(replace(long, seed=1)))


def test_a_lesson_may_freeze_what_the_next_one_trains(tmp_path: Path) -> None:
    pupil = tiny(kind=HalfFrozen)
    before = weights(pupil)
    with pytest.raises(Killed):
        train_tiny(tmp_path, pupil, killed_at=8)
    after = weights(pupil)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[2], after[2])
    train_tiny(tmp_path, pupil)
    assert not torch.equal(before[0], weights(pupil)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, bad: float) -> None:
    pupil = replace(tiny(), lessons=[TinyLesson("one", PLAN, bad)])
    with pytest.raises(DivergedError, match=rf"the loss is {bad} at step 1"):
        train_tiny(tmp_path, pupil)
    assert all(w.isfinite().all() for w in weights(pupil))


def test_the_same_step_draws_the_same_numbers() -> None:
    lesson = TinyLesson("one", PLAN)
    drawn = [(lesson.seed_step(step).random(), torch.rand(1).item()) for step in (3, 3, 4)]
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]
    assert random.Random("one/0/3").random() == drawn[0][0]


@pytest.mark.parametrize("has", [False, True])
def test_bf16_is_taken_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(lessons, "training_device", lambda: torch.device("cpu"))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has, raising=False)
    assert has_fast_bf16() is has


def test_a_torch_that_cannot_tell_takes_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "training_device", lambda: torch.device("cpu"))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not has_fast_bf16()
