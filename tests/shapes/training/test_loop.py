import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agfsync.errors import DivergedError, ModelError
from agfsync.shapes.training import loop
from agfsync.shapes.training.loop import Loss, Plan, autocast, fast_bf16, steps_done, train

PLAN = Plan("tiny", steps=12, batch=4, learning_rate=0.05, warmup=3, checkpoint_every=4)


class Killed(Exception):
    pass


def tiny() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))


def loss_of(model: nn.Module) -> Loss:
    """A loss with chance in it: from the step's own generator, and from torch's (the dropout's)."""

    def loss(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        inputs = torch.tensor([[rng.gauss(0, 1) for _ in range(3)] for _ in range(4)]) + 0.1 * torch.randn(4, 3)
        error = (model(inputs).squeeze(1) - inputs.sum(dim=1)).square().mean()
        return error, {"error": error.item()}

    return loss


def trained(folder: Path, plan: Plan = PLAN, killed_at: int = 0) -> tuple[nn.Module, list[float]]:
    """A tiny model trained in `folder`, and the losses that it told; `killed_at` a step, it dies right after."""
    model, told = tiny(), []

    def tell(step: int, figures: dict[str, float]) -> None:
        told.append(figures["loss"])
        if step == killed_at:
            raise Killed

    return train(plan, model, loss_of(model), folder, tell), told


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(one, other) for one, other in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize("killed_at", [1, 4, 5, 11])
def test_a_training_that_was_killed_goes_on_to_exactly_the_same_weights(tmp_path: Path, killed_at: int) -> None:
    whole, told = trained(folder(tmp_path, "whole"))
    stopped = folder(tmp_path, "stopped")
    with pytest.raises(Killed):
        trained(stopped, killed_at=killed_at)
    done = steps_done(stopped, PLAN)
    assert done == (killed_at - 1) // 4 * 4
    resumed, told_after = trained(stopped)
    assert told_after == told[done:]
    assert equal(whole, resumed)


def test_a_training_that_is_done_only_loads_its_weights(tmp_path: Path) -> None:
    first, _ = trained(tmp_path)
    second, told = trained(tmp_path)
    assert steps_done(tmp_path, PLAN) == PLAN.steps
    assert told == [] and equal(first, second) and not second.training


def test_nothing_is_done_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert steps_done(tmp_path, PLAN) == 0


def test_a_checkpoint_of_another_plan_is_not_gone_on_from(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(ModelError, match=r"tiny\.checkpoint\.safetensors was made by another plan .* remove it"):
        trained(tmp_path, replace(PLAN, steps=20))
    assert steps_done(tmp_path, replace(PLAN, checkpoint_every=2)) == PLAN.steps


def test_the_loss_falls_and_the_seed_matters(tmp_path: Path) -> None:
    long = replace(PLAN, steps=80, checkpoint_every=80)
    model, told = trained(tmp_path, long)
    assert sum(told[-10:]) < 0.5 * sum(told[:10])
    assert not equal(model, trained(folder(tmp_path, "other"), replace(long, seed=1))[0])


def test_the_weights_are_the_average_of_those_on_the_way(tmp_path: Path) -> None:
    model = tiny()
    path: list[list[Tensor]] = [[w.clone() for w in weights(model)]]
    keep = lambda step, figures: path.append([w.clone() for w in weights(model)])  # noqa: E731
    train(replace(PLAN, ema=0.5), model, loss_of(model), tmp_path, keep)
    average, *rest = path
    for step, after in enumerate(rest):
        decay = min(0.5, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * w for a, w in zip(average, after, strict=True)]
    for expected, got in zip(average, weights(model), strict=True):
        assert torch.allclose(expected, got, atol=1e-6)


def test_what_is_frozen_stays_as_it_is(tmp_path: Path) -> None:
    model = tiny()
    frozen = model[0]
    frozen.requires_grad_(False)
    before = frozen.weight.clone()
    train(PLAN, model, loss_of(model), tmp_path, lambda step, figures: None)
    assert torch.equal(frozen.weight, before)
    assert not torch.equal(weights(model)[2], weights(tiny())[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, bad: float) -> None:
    model = tiny()
    fine = loss_of(model)
    steps = iter(range(99))

    def loss(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        value, figures = fine(rng)
        return (value * bad if next(steps) == 6 else value), figures

    with pytest.raises(DivergedError, match=rf"training tiny: the loss is {bad} at step 6"):
        train(PLAN, model, loss, tmp_path, lambda step, figures: None)
    assert steps_done(tmp_path, PLAN) == 4
    assert all(w.isfinite().all() for w in weights(model))


@pytest.mark.parametrize("has", [False, True])
def test_bf16_is_taken_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has, raising=False)
    assert fast_bf16() is has
    with autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if has else torch.float32)


def test_a_torch_that_cannot_tell_takes_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not fast_bf16()
