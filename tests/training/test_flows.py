"""Flow-matching models through the same loop and losses: tiny Stable Diffusion 3 and FLUX.

The naive computation sees one image at a time, by diffusers' own pipeline and scheduler.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor, nn

from agfsync import catalog
from agfsync.training import DiffusionModel, Reference
from agfsync.training.batches import EncodedPairs
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import PairErrors, compute_pair_errors
from agfsync.training.noising import PairNoise
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.reference import AdaptersOff, FrozenCopy

PROMPTS = ["a red circle", "two green squares", "a large yellow ring"]
PLAN = TrainingPlan(steps=4, batch=2, learning_rate=1e-3, seed=11, precision="fp32", checkpoint_every=2)
METHOD = DiffusionDPO(beta=100.0)
FLOWS = ("stable-diffusion-3", "flux")


@pytest.fixture(params=FLOWS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Trained:
    """A flow model that is ready to be trained, its reference and its pairs."""

    model: DiffusionModel
    reference: Reference
    pairs: EncodedPairs

    def train(self, folder: Path, plan: TrainingPlan, on_step: Callable[[Any], None] = lambda line: None) -> Tensor:
        actor, checkpoints = Actor(self.model, self.reference, plan.precision), Checkpoints(folder / "kept", "a")
        train(actor, METHOD.objective(self.pairs, plan), plan, checkpoints, folder / "log", on_step)
        return torch.cat([p.detach().flatten() for p in self.model.network.parameters() if p.requires_grad])


@pytest.fixture
def make(tiny_sd3_generator: Path, tiny_flux_generator: Path) -> Callable[..., Trained]:
    folders = {"stable-diffusion-3": tiny_sd3_generator, "flux": tiny_flux_generator}

    def made(kind: str, lora: bool, precision: str = "fp32") -> Trained:
        size = {"height": 16, "width": 16, "guidance": 3.5, "device": "cpu"}
        model = catalog.build("models", {"type": kind, "path": str(folders[kind])} | size)
        latents = torch.randn(6, 16, 8, 8, generator=torch.Generator().manual_seed(3))
        rows = torch.arange(3)
        pairs = EncodedPairs(latents, model.encode_prompts(PROMPTS), rows, rows + 3, rows)
        if lora:
            add_adapters(model.network, 2, 2, 0, model.adapter_targets)
            return Trained(model, AdaptersOff(model.network), pairs)
        reference = FrozenCopy(model.network, precision)
        model.network.requires_grad_(True)
        return Trained(model, reference, pairs)

    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True])
def test_the_first_loss_is_log_two(
    make: Callable[..., Trained], kind: str, precision: str, lora: bool, tmp_path: Path
) -> None:
    lines: list[Any] = []
    plan = TrainingPlan(steps=2, batch=2, learning_rate=1e-3, seed=11, precision=precision)  # type: ignore[arg-type]
    make(kind, lora, precision).train(tmp_path, plan, lines.append)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-7) and lines[0]["gradient_norm"] > 0
    assert lines[1]["loss"] != lines[0]["loss"]


@pytest.mark.parametrize("lora", [False, True])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    make: Callable[..., Trained], kind: str, lora: bool, tmp_path: Path
) -> None:
    whole = make(kind, lora).train(tmp_path / "whole", PLAN)

    def kill(line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(kind, lora).train(tmp_path / "killed", PLAN, kill)
    assert torch.equal(make(kind, lora).train(tmp_path / "killed", PLAN), whole)
    assert not torch.equal(make(kind, lora).train(tmp_path / "none", TrainingPlan(0, 2, 1e-3, 11)), whole)


@pytest.mark.parametrize("lora", [False, True])
def test_losses_and_gradients_are_those_of_the_velocity(
    make: Callable[..., Trained], lora: bool, nudge: Callable[[nn.Module], None], tiny_sd3_generator: Path
) -> None:
    trained = make("stable-diffusion-3", lora)
    network, pairs = trained.model.network, trained.pairs
    pipe: Any = StableDiffusion3Pipeline.from_pretrained(tiny_sd3_generator, use_safetensors=True)
    base = deepcopy(pipe.transformer)
    nudge(network)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    rows = [5, 500, 990]
    noise = PairNoise(
        torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(4)), scheduler.timesteps[rows] / 1000
    )
    batch = pairs.make_batch(torch.arange(3), trained.model.device)
    loss, _ = METHOD.loss(compute_pair_errors(trained.model, trained.reference, batch, noise))
    weights = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, weights)

    def error(net: nn.Module, latents: Tensor, row: int) -> Tensor:
        clean, e, timestep = latents[None], noise.noise_PCHW[row, None], scheduler.timesteps[rows[row], None]
        with torch.no_grad():
            text, _, pooled, _ = pipe.encode_prompt(PROMPTS[row], None, None, do_classifier_free_guidance=False)
        noisy = scheduler.scale_noise(clean, timestep, e)
        predicted = net(noisy, timestep=timestep, encoder_hidden_states=text, pooled_projections=pooled).sample
        return F.mse_loss(predicted, e - clean)

    naive = torch.zeros(())
    for row in range(3):
        changes = [
            error(network, image, row) - error(base, image, row).detach()
            for image in (pairs.latents_ICHW[row], pairs.latents_ICHW[row + 3])
        ]
        naive = naive - F.logsigmoid(-METHOD.beta / 2 * (changes[0] - changes[1])) / 3
    assert abs(loss.item() - math.log(2)) > 1e-4
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad(naive, weights, allow_unused=True)
    scale = max(each.abs().max() for each in theirs if each is not None)
    for mine, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(
            mine / scale, (torch.zeros_like(mine) if other is None else other) / scale, rtol=1e-3, atol=5e-5
        )


def test_min_snr_and_the_noises_errors_are_weights_of_the_velocitys(make: Callable[..., Trained]) -> None:
    trained = make("stable-diffusion-3", False)
    noise = PairNoise(torch.zeros(3, 16, 8, 8), torch.tensor([0.2, 0.5, 0.9]))
    batch = trained.pairs.make_batch(torch.arange(3), trained.model.device)

    def errors(*options: Any) -> PairErrors:
        return compute_pair_errors(trained.model, trained.reference, batch, noise, "fp32", *options)

    plain, of_noise, snr = errors(), errors(None, "epsilon"), errors(5.0)
    torch.testing.assert_close(of_noise.winner_P, plain.winner_P * torch.tensor([0.64, 0.25, 0.01]))
    torch.testing.assert_close(snr.loser_P, plain.loser_P * torch.tensor([0.2, 0.25, 0.01]))
