"""The loop: where it starts, where it ends, and when it stops."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agfsync.errors import DivergedError
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training import Reference
from agfsync.training.batches import EncodedPairs
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import compute_learning_rate, train
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import PairErrors, PairObjective, compute_pair_errors
from agfsync.training.noising import draw_pair_noise
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.reference import AdaptersOff, FrozenCopy
from agfsync.training.state import make_optimizer

PLAN = TrainingPlan(steps=6, batch=3, learning_rate=1e-3, seed=11, warmup=2, precision="fp32", checkpoint_every=2)
METHOD = DiffusionDPO(beta=500.0)
Line = dict[str, float]


def prepare(folder: Path, lora: bool, precision: str) -> tuple[StableDiffusion, Reference]:
    denoiser = StableDiffusion(str(folder), device="cpu")
    if lora:
        add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
        return denoiser, AdaptersOff(denoiser.network)
    reference = FrozenCopy(denoiser.network, precision)
    denoiser.network.requires_grad_(True)
    return denoiser, reference


def lines(path: Path) -> list[Line]:
    """The log without its times."""
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@dataclass
class Session:
    """What a process that trains holds; each call of `go` is a new process on the same folder."""

    model: Path
    folder: Path
    pairs: EncodedPairs
    plan: TrainingPlan = PLAN
    lora: bool = False
    digest: str = "a"

    def go(self, tell: Callable[[Line], None] = lambda line: None) -> tuple[StableDiffusion, Reference]:
        denoiser, reference = prepare(self.model, self.lora, self.plan.precision)
        checkpoints = Checkpoints(self.folder / "checkpoints", self.digest)
        actor, objective = Actor(denoiser, reference, self.plan.precision), METHOD.objective(self.pairs, self.plan)
        train(actor, objective, self.plan, checkpoints, self.log, lambda line: tell(dict(line)))
        return denoiser, reference

    @property
    def log(self) -> Path:
        return self.folder / "metrics.jsonl"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True])
def test_the_first_loss_is_log_two(
    tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path, precision: str, lora: bool
) -> None:
    plan = replace(PLAN, steps=1, precision=precision)  # type: ignore[arg-type]
    session = Session(tiny_generator, tmp_path, pairs, plan, lora)
    session.go()
    (line,) = lines(session.log)
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert line["implicit_accuracy"] == 0.5
    assert line["winner_error_change"] == line["loser_error_change"] == 0
    assert line["gradient_norm"] > 0


def test_other_settings_start_afresh(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> None:
    session = Session(tiny_generator, tmp_path, pairs)
    session.go()
    before = lines(session.log)
    other = replace(session, digest="b", plan=replace(PLAN, seed=12))
    told: list[Line] = []
    other.go(told.append)
    assert len(told) == PLAN.steps
    assert lines(other.log) != before
    assert Checkpoints(tmp_path / "checkpoints", "a").find_last_step() == 0


def test_a_finished_training_is_only_loaded(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> None:
    session = Session(tiny_generator, tmp_path, pairs)
    first, _ = session.go()
    told: list[Line] = []
    again, _ = session.go(told.append)
    assert told == []
    assert torch.equal(weights(first.network), weights(again.network))
    assert len(lines(session.log)) == PLAN.steps


def test_training_prefers_the_winners(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> None:
    signs = torch.tensor([1.0] * 5 + [-1.0] * 5).view(10, 1, 1, 1)
    plan = replace(PLAN, steps=30, learning_rate=3e-3, checkpoint_every=30)
    session = Session(tiny_generator, tmp_path, replace(pairs, latents_ICHW=signs.expand(10, 4, 8, 8)), plan)
    session.go()
    last = lines(session.log)[-10:]
    assert sum(line["implicit_accuracy"] for line in last) / 10 > 0.8
    assert sum(line["winner_error_change"] - line["loser_error_change"] for line in last) < 0


@dataclass(frozen=True)
class Poisoned(DiffusionDPO):
    """A method that goes wrong in its third step."""

    poison: float = math.nan
    steps: list[int] = field(default_factory=list)

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.steps.append(1)
        loss, metrics = METHOD.compare(errors, beta)
        return loss * (self.poison if len(self.steps) == 3 else 1.0), metrics


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_divergence_stops_before_the_weights_are_spoilt(
    tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path, poison: float
) -> None:
    denoiser, reference = prepare(tiny_generator, False, "fp32")
    checkpoints = Checkpoints(tmp_path / "checkpoints", "a")
    with pytest.raises(DivergedError, match="loss is .* at step 3; lower training.learning_rate") as caught:
        objective = PairObjective(Poisoned(500.0, poison), pairs, PLAN)
        train(Actor(denoiser, reference), objective, PLAN, checkpoints, tmp_path / "log", lambda line: None)
    assert "\n" not in str(caught.value)
    assert torch.isfinite(weights(denoiser.network)).all()
    assert checkpoints.find_last_step() == 2


def test_an_infinite_gradient_diverges(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> None:
    denoiser, reference = prepare(tiny_generator, False, "fp32")
    next(denoiser.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    checkpoints = Checkpoints(tmp_path / "checkpoints", "a")
    with pytest.raises(DivergedError, match="gradient is .* at step 1"):
        objective = METHOD.objective(pairs, PLAN)
        train(Actor(denoiser, reference), objective, PLAN, checkpoints, tmp_path / "log", lambda line: None)


def test_learning_rate() -> None:
    plan = replace(PLAN, steps=12, warmup=2, learning_rate=1.0)
    assert [compute_learning_rate(plan, step) for step in (0, 1, 2, 7)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert 0 < compute_learning_rate(plan, 11) < 0.03
    constant = replace(plan, schedule="constant")
    assert [compute_learning_rate(constant, step) for step in (0, 1, 11)] == [0.5, 1.0, 1.0]
    linear = replace(plan, schedule="linear")
    assert [compute_learning_rate(linear, step) for step in (1, 2, 7, 11)] == pytest.approx([1.0, 1.0, 0.5, 0.1])
    assert compute_learning_rate(replace(linear, steps=102), 101) == 0.05


def test_the_optimizer_has_the_plans_betas() -> None:
    parameters = {"weight": torch.nn.Parameter(torch.zeros(1))}
    assert make_optimizer("adamw", parameters, 0.0).defaults["betas"] == (0.9, 0.999)
    assert make_optimizer("adamw", parameters, 0.0, (0.9, 0.99)).defaults["betas"] == (0.9, 0.99)


def test_winner_and_loser_share_noise_and_timestep(denoiser: StableDiffusion, pairs: EncodedPairs) -> None:
    same = replace(pairs, loser_P=pairs.winner_P)
    noise = draw_pair_noise(0, 0, torch.Size([3, 4, 8, 8]), denoiser.schedule)
    batch = same.make_batch(torch.tensor([0, 1, 2]), denoiser.device)
    errors = compute_pair_errors(denoiser, FrozenCopy(deepcopy(denoiser.network), "fp32"), batch, noise)
    torch.testing.assert_close(errors.winner_P, errors.loser_P)
