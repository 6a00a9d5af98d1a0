"""Each method that follows a reward raises it: on a network of two layers that is an exact model of noise at first."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn

from agfsync import catalog
from agfsync.models.architecture import Conditioning
from agfsync.models.schedules import DiffusionSchedule, FlowSchedule, NoiseSchedule
from agfsync.scorers import Item, Measurement
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.methods.online import Sampler, draw_samples
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.reference import FrozenCopy
from agfsync.training.rewards import Rewards

PROMPTS = list("abcdefgh")
SHAPE = (3, 2, 2)
SHADE = 30.0
"""of a latent of 1, beside 127.5"""
POLICY = {"type": "policy-gradient", "group": 4, "guidance": 1.0}
CLEAN = {"group": 4, "guidance": 1.0}
REFL = {"type": "reward-gradient", "loss": "refl", "window": (0.6, 1.0), "margin": 5.0, "kl": 0.0}
DRAFT = {"type": "reward-gradient", "loss": "draft", "last": 1, "kl": 0.01}
GRADIENT = {"steps": 5, "guidance": 1.0, "scale": 1.0, "standard": {"red": (50.0, 6.0)}}


class TwoLayers(nn.Module):
    """0 at first, for any latents, time and prompt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = math.prod(SHAPE)
        self.first, self.last = nn.Linear(size + 1 + len(PROMPTS), 32), nn.Linear(32, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, noisy: Tensor, shares: Tensor, prompts: Tensor) -> Tensor:
        given = torch.cat([noisy.flatten(1), shares[:, None], prompts], dim=1)
        found: Tensor = self.last(nn.functional.silu(self.first(given)))
        return found.view_as(noisy)


class NoiseModel:
    """A model of latents N(0, I), which the network may change: the red of its images are its first channel."""

    device = torch.device("cpu")
    guidance, steps, latent_shape = 1.0, 5, SHAPE

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule, self.network = schedule, TwoLayers()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        return {"text": torch.eye(len(PROMPTS))[[PROMPTS.index(prompt) for prompt in prompts]]}

    def predict(self, network: nn.Module, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """Return E[v] of N(0, I), 0 in diffusion and (2 s - 1) x / (s^2 + (1 - s)^2) in a flow, and the network's."""
        flow = isinstance(self.schedule, FlowSchedule)
        shares = times if flow else times / 1000
        changed: Tensor = network(noisy, shares, conditioning["text"])
        factors = (2 * times - 1) / (times**2 + (1 - times) ** 2) if flow else torch.zeros(len(times))
        return changed + factors.view(-1, 1, 1, 1) * noisy

    def decode_pixels(self, latents: Tensor) -> Tensor:
        return (0.5 + SHADE / 255 * latents).clamp(0, 1)

    def decode_latents(self, latents: Tensor) -> list[Image.Image]:
        shades = (255 * self.decode_pixels(latents)).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(each) for each in shades]


class Red:
    """A scorer: the mean of an image's red, in 0..100."""

    asks_questions = False

    def score(self, items: Sequence[Item]) -> list[Measurement]:
        return [Measurement(float(np.asarray(item.image)[..., 0].mean()) / 2.55) for item in items]

    def rewards(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * pixels[:, 0].mean(dim=(1, 2))


def make_diffusion() -> NoiseModel:
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    return NoiseModel(DiffusionSchedule(scheduler.alphas_cumprod, "v_prediction", offset=1))


def make_flow() -> NoiseModel:
    return NoiseModel(FlowSchedule(FlowMatchEulerDiscreteScheduler()))


@pytest.mark.parametrize(
    ("make_model", "method"),
    [
        *((make_diffusion, {**POLICY, "loss": loss}) for loss in ("ddpo", "dpok", "ppo", "grpo")),
        *((make_flow, {**POLICY, "loss": "grpo", "stochastic_step": kind, "eta": 0.8}) for kind in ("sde", "cps")),
        (make_flow, {**POLICY, "loss": "grpo", "eta": 0.8, "window": 2, "kl": 0.01}),
        *((make, {**CLEAN, "type": kind}) for make in (make_diffusion, make_flow) for kind in ("nft", "awm")),
        (make_flow, {**CLEAN, "type": "nft", "guidance": 3.0}),
        *((make, {**GRADIENT, **method}) for make in (make_diffusion, make_flow) for method in (REFL, DRAFT)),
    ],
)
def test_a_method_raises_its_reward(
    make_model: Callable[[], NoiseModel], method: dict[str, Any], tmp_path: Path
) -> None:
    model: Any = make_model()
    texts = model.encode_prompts(PROMPTS)
    unprompted = {"text": torch.zeros(1, len(PROMPTS))}
    data = PromptData(PROMPTS, [()] * len(PROMPTS), texts, unprompted, Rewards({"red": 1.0}, lambda name: Red()))
    built = catalog.build("methods", {**method, "reward": {"red": 1.0}})
    plan = TrainingPlan(15, len(PROMPTS), 1e-2, 3, precision="fp32")
    actor = Actor(model, FrozenCopy(model.network, "fp32") if built.uses_reference else None)
    sampler = Sampler(8, None, method["guidance"], 0.0)

    def draw() -> Tensor:
        """Return the rewards of new images, without noise in the steps."""
        return draw_samples(data, TrainingPlan(1, 8, 1.0, 99), sampler, Actor(model), 0, torch.arange(8)).rewards_N

    before = draw()
    train(actor, built.objective(data, plan), plan, Checkpoints(tmp_path, ""), tmp_path / "log", lambda figures: None)
    gains = draw() - before
    error = gains.std() / len(gains) ** 0.5
    assert gains.mean() > 5 * error and gains.mean() > before.std() / 2
