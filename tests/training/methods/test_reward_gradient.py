"""ReFL and DRaFT-K against a second implementation: diffusers' pipeline and sampler, one image at a time."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from agfsync import catalog
from agfsync.recipe.types import RewardGradientSettings
from agfsync.training.methods.reward_gradient import PromptBatch, RewardGradient
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.reference import FrozenCopy
from agfsync.training.rewards import Rewards

PROMPTS = ["a red circle", "two green squares", "a large yellow ring"]
NEGATIVE = "a blue star"
PLAN = TrainingPlan(steps=3, batch=4, learning_rate=1e-3, seed=5, precision="fp32", checkpoint_every=1)
KINDS = {
    "stable-diffusion": "tiny_generator",
    "v-prediction": "tiny_generator",
    "stable-diffusion-3": "tiny_sd3_generator",
}
Nudge = Callable[[nn.Module], None]


class Tint:
    """A reward by hand: 100 x the mean of (pixel - the prompt's length / 40)^2, on the scale of a score."""

    asks_questions = False

    def score(self, items: Sequence[Any]) -> Sequence[Any]:
        raise AssertionError("an image without a gradient isn't needed")

    def rewards(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        wanted = torch.tensor([len(prompt) / 40 for prompt in prompts]).view(-1, 1, 1, 1)
        return 100 * (pixels - wanted).square().mean(dim=(1, 2, 3))


class Standardised(Tint):
    """The logarithm of a Tint is its standardised reward."""

    def standardise(self, values: Tensor) -> Tensor:
        return values.log()


def build(**settings: Any) -> RewardGradient:
    whole = RewardGradientSettings.model_validate({"type": "reward-gradient", "reward": {"tint": 1.0}} | settings)
    made: RewardGradient = catalog.build("methods", whole.model_dump())
    return made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def actor(kind: str, request: pytest.FixtureRequest, nudge: Nudge) -> Actor:
    """A model in training that has left the base, of images that aren't square."""
    type_ = "stable-diffusion" if kind == "v-prediction" else kind
    folder = Path(request.getfixturevalue(KINDS[kind]))
    model = catalog.build("models", {"type": type_, "path": str(folder), "height": 24, "width": 16, "device": "cpu"})
    if kind == "v-prediction":
        model._scheduler.register_to_config(prediction_type="v_prediction")
    reference = FrozenCopy(model.network, "fp32")
    model.network.requires_grad_(True)
    nudge(model.network)
    return Actor(model, reference, "fp32")


def make_data(model: Any, scorer: Any = None, prompts: Sequence[str] = PROMPTS) -> PromptData:
    rewards = Rewards({"tint": 1.0}, lambda name: scorer or Tint())
    unprompted = model.encode_prompts([NEGATIVE])
    return PromptData(list(prompts), [()] * len(prompts), model.encode_prompts(prompts), unprompted, rewards)


def naive_loss(actor: Actor, method: RewardGradient, batch: PromptBatch) -> Tensor:
    """The loss of the batch as diffusers samples it, one image at a time, with an unconditional pass of its own."""
    model: Any = actor.model
    pipe = model._pipeline
    flow = isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    losses = []
    for row, noise in zip(batch.rows_B.tolist(), batch.noise_BCHW, strict=True):
        scheduler = deepcopy(model._scheduler) if flow else DDIMScheduler.from_config(model._scheduler.config)
        scheduler.set_timesteps(method.steps)
        with_prompt, without = model.encode_prompts([PROMPTS[row]]), model.encode_prompts([NEGATIVE])
        latents, penalties = noise[None], []
        for number, timestep in enumerate(scheduler.timesteps):
            if number > batch.last:
                break

            def predict(
                network: nn.Module, told: Any, latents: Tensor = latents, timestep: Tensor = timestep
            ) -> Tensor:
                arguments = (
                    model._architecture.arguments(told)
                    if not flow
                    else {
                        "encoder_hidden_states": told["encoder_hidden_states_BTD"],
                        "pooled_projections": told["pooled_projections_BE"],
                    }
                )
                if flow:
                    return network(latents, timestep=timestep[None], **arguments).sample
                return network(latents, timestep, **arguments).sample

            def guided(network: nn.Module, prompted: Any = with_prompt, negative: Any = without) -> Tensor:
                alone = predict(network, negative)
                return alone + method.guidance * (predict(network, prompted) - alone)

            if number < batch.first:
                with torch.no_grad():
                    predicted = guided(model.network)
            else:
                predicted = guided(model.network)
                with torch.no_grad():
                    base = guided(actor.reference._network)  # type: ignore[union-attr]
                penalties.append(((predicted - base) ** 2).mean())
            if flow:
                sigma = scheduler.sigmas[number]
                clean = latents - sigma * predicted
                latents = latents + (scheduler.sigmas[number + 1] - sigma) * predicted
            else:
                step = scheduler.step(predicted, timestep, latents, eta=0.0)
                clean, latents = step.pred_original_sample, step.prev_sample
        shift = pipe.vae.config.get("shift_factor") or 0
        decoded = pipe.vae.decode(clean / pipe.vae.config.scaling_factor + shift).sample
        decoded = decoded / 2 + 0.5
        # Clamped in value alone: some pixels are saturated.
        decoded = decoded + (decoded.clamp(0, 1) - decoded).detach()
        value = 100 * ((decoded - len(PROMPTS[row]) / 40) ** 2).mean()
        if method.loss == "refl":
            reward = (value - 30) / 20
            losses.append(method.scale * max(method.margin - reward, 0 * reward))  # type: ignore[operator, call-overload]
        else:
            losses.append(-method.scale * value)
        losses[-1] = losses[-1] + method.kl * sum(penalties) / len(penalties)
    return sum(losses) / len(losses)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 8, "standard": {"tint": [30.0, 20.0]}},
        {"steps": 8, "standard": {"tint": [30.0, 20.0]}, "guidance": 3.0, "kl": 0.5, "scale": 1.0, "window": [0, 1]},
        {"loss": "draft", "steps": 5, "guidance": 1.0, "kl": 0.0},
        {"loss": "draft", "steps": 5, "last": 3},
    ],
    ids=["ReFL", "ReFL, guided", "DRaFT-1", "DRaFT+"],
)
def test_loss_and_gradient_are_the_naive_ones(actor: Actor, settings: dict[str, Any]) -> None:
    method = build(**settings)
    objective = method.objective(make_data(actor.model), PLAN)
    (batch,) = objective.collect(actor, 2, torch.arange(PLAN.batch))
    weights = list(actor.network.parameters())
    loss, metrics = objective.loss(actor, batch)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    naive = naive_loss(actor, method, batch)
    naive_gradients = torch.autograd.grad(naive, weights, allow_unused=True)
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    scale = max(each.abs().max() for each in naive_gradients if each is not None)
    assert scale > 0 and metrics["loss"] == loss.detach() and set(method.curves) <= metrics.keys()
    for ours, theirs in zip(gradients, naive_gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-5, atol=1e-5)
