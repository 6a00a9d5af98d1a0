"""The loop's options: what they must not change, what they must, and that all of them resume to the last bit."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agfsync.errors import DivergedError, ModelError, RecipeError
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training import loop
from agfsync.training.batches import EncodedPairs, draw_dropped_rows
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.precision import make_loss_scaler
from agfsync.training.processes import ALONE
from agfsync.training.reference import AdaptersOff
from agfsync.training.state import Average, make_optimizer

CPU = torch.device("cpu")
PLAN = TrainingPlan(steps=4, batch=5, learning_rate=1e-3, seed=11, precision="fp32", checkpoint_every=1)


class Killed(Exception):
    pass


class Trainer:
    """Trains a LoRA of the tiny model; each call is a new process on its folder."""

    def __init__(self, model: Path, pairs: EncodedPairs, folder: Path) -> None:
        self.model, self.pairs, self.folder, self.overflows = model, pairs, folder, False

    def __call__(self, name: str, plan: TrainingPlan, until: int | None = None) -> Tensor:
        denoiser = StableDiffusion(str(self.model), device="cpu")
        add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
        if self.overflows:
            trained = [parameter for parameter in denoiser.network.parameters() if parameter.requires_grad]
            trained[0].register_hook(lambda gradient: gradient + math.inf)

        def tell(line: Mapping[str, float]) -> None:
            if line["step"] == until:
                raise Killed

        folder = self.folder / name
        checkpoints = Checkpoints(folder / "checkpoints", "a")
        actor = Actor(denoiser, AdaptersOff(denoiser.network), plan.precision)
        objective = DiffusionDPO(500.0).objective(self.pairs, plan)
        loop.train(actor, objective, plan, checkpoints, folder / "log", tell)
        return torch.cat([p.detach().flatten() for p in denoiser.network.parameters() if p.requires_grad])

    def lines(self, name: str) -> list[dict[str, float]]:
        text = (self.folder / name / "log").read_text()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]


@pytest.fixture
def train(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> Trainer:
    return Trainer(tiny_generator, pairs, tmp_path)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the loop scale its loss on a CPU, in float32, from a given scale."""

    def install(scale: float) -> None:
        monkeypatch.setattr(loop, "make_loss_scaler", lambda *_: torch.amp.GradScaler("cpu", init_scale=scale))

    return install


def agree(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


# The first step alone: AdamW takes signs of what is nearly 0, so that rounding grows from step to step.
@pytest.mark.parametrize("parts", [2, 5])
def test_a_step_in_parts_is_a_step(train: Trainer, parts: int) -> None:
    one = replace(PLAN, steps=1)
    train("whole", one)
    train("parts", replace(one, accumulate=parts))
    (whole,), (split,) = train.lines("whole"), train.lines("parts")
    assert split == pytest.approx(whole, rel=1e-5, abs=1e-5)


def test_gradients_of_the_parts_add_up(
    monkeypatch: pytest.MonkeyPatch, tiny_generator: Path, pairs: EncodedPairs
) -> None:
    gradients = []
    for parts in (1, 3):
        denoiser = StableDiffusion(str(tiny_generator), device="cpu")
        add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
        plan = replace(PLAN, accumulate=parts)
        state = loop.TrainingState.create(denoiser.network, "adamw", 0.0, make_loss_scaler(CPU, "fp32"), None)
        actor, objective = Actor(denoiser, AdaptersOff(denoiser.network)), DiffusionDPO(500.0).objective(pairs, plan)
        training = loop._Training(actor, objective, plan, ALONE, print)
        (batch,) = objective.collect(actor, 0, torch.arange(plan.batch))
        loop._backward(training, state, batch, len(batch))
        gradients.append(torch.cat([p.grad.flatten() for p in state.parameters.values() if p.grad is not None]))
    scale = gradients[0].abs().max()
    assert scale > 0
    torch.testing.assert_close(gradients[1] / scale, gradients[0] / scale, rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_gives_the_same(train: Trainer) -> None:
    plain = train("plain", PLAN)
    again = train("again", replace(PLAN, gradient_checkpointing=True))
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)
    agree(train.lines("again"), train.lines("plain"))


def test_a_network_that_cant_recompute_says_so() -> None:
    with pytest.raises(ModelError, match="gradient_checkpointing to false"):
        loop._enable_gradient_checkpointing(nn.Linear(2, 2))


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"caption_dropout": 0.5}, {"accumulate": 2}])
def test_resumes_to_the_last_bit(train: Trainer, options: dict[str, Any]) -> None:
    plan = replace(PLAN, **options)
    straight = train("straight", plan)
    for step in (1, 3):
        with pytest.raises(Killed):
            train("cut", plan, until=step)
    assert torch.equal(train("cut", plan), straight)
    assert train.lines("cut") == train.lines("straight")
    assert torch.equal(train("cut", plan), straight), "only loaded"


def test_the_average_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = Average({"w": weight}, decay=0.25)
    with torch.no_grad():
        weight.fill_(3.0)
    average.update({"w": weight}, 1)  # (1 + 1) / (10 + 1) is less than 0.25
    assert average.weights["w"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 3)
    before = average.weights["w"].item()
    average.update({"w": weight}, 100)
    assert average.weights["w"].item() == pytest.approx(0.25 * before + 0.75 * 3)
    average.copy_to({"w": weight})
    assert weight.item() == average.weights["w"].item()


def test_the_result_is_the_average_and_the_training_is_the_same(train: Trainer) -> None:
    plain, averaged = train("plain", PLAN), train("averaged", replace(PLAN, ema=0.9))
    assert train.lines("plain") == train.lines("averaged")
    assert not torch.equal(plain, averaged)


def test_winner_and_loser_lose_their_caption_together(denoiser: StableDiffusion, pairs: EncodedPairs) -> None:
    text = denoiser.encode_prompts(["a red circle", "two green squares", "a large yellow ring", ""])
    rows, dropped = torch.tensor([4, 1, 0]), torch.tensor([True, False, True])
    (given,) = replace(pairs, conditioning=text).make_batch(rows, CPU, dropped).conditioning.values()
    (known,) = text.values()
    assert torch.equal(given, known[[3, 1, 3, 3, 1, 3]])


def test_captions_are_dropped_at_their_rate_and_by_seed_and_step() -> None:
    assert draw_dropped_rows(0, 0, 8, 0.0) is None
    first, again, later = (draw_dropped_rows(0, step, 4000, 0.1) for step in (3, 3, 4))
    assert first is not None and again is not None and later is not None
    assert first.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_fp16_on_a_cpu_says_what_to_do() -> None:
    with pytest.raises(RecipeError, match="on a CPU set it to bf16 or fp32") as caught:
        make_loss_scaler(CPU, "fp16")
    assert "\n" not in str(caught.value)


def test_eight_bits_without_their_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="adamw8bit needs the package bitsandbytes: pip install") as caught:
        make_optimizer("adamw8bit", {}, 0.0)
    assert "\n" not in str(caught.value)


def test_eight_bits_resume_to_the_last_bit(train: Trainer) -> None:
    pytest.importorskip("bitsandbytes")
    test_resumes_to_the_last_bit(train, {"optimizer": "adamw8bit"})


def test_a_scaled_loss_trains_alike_and_resumes_to_the_last_bit(train: Trainer, scaled: Any) -> None:
    plain = train("plain", PLAN)
    scaled(1024.0)
    straight = train("straight", PLAN)
    torch.testing.assert_close(straight, plain, rtol=1e-4, atol=1e-6)
    assert [line.pop("loss_scale") for line in train.lines("straight")] == [1024.0] * 4
    with pytest.raises(Killed):
        train("cut", PLAN, until=3)
    assert torch.equal(train("cut", PLAN), straight)


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(train: Trainer, scaled: Any) -> None:
    untrained = train("none", replace(PLAN, steps=0))
    scaled(3e38)
    weights = train("over", replace(PLAN, steps=1))
    assert torch.equal(weights, untrained)
    train("over", PLAN)
    lines = train.lines("over")
    assert [line["loss_scale"] for line in lines] == pytest.approx([3e38, 1.5e38, 0.75e38, 0.375e38])
    assert lines[0]["gradient_norm"] == 0.0


def test_overflow_at_the_smallest_scale_is_divergence(train: Trainer, scaled: Any) -> None:
    train.overflows = True
    scaled(2.0)
    with pytest.raises(DivergedError, match="set training.precision to fp32"):
        train("diverged", PLAN)
    assert [line["loss_scale"] for line in train.lines("diverged")] == [2.0]
