"""ReFL and DRaFT-K against a second implementation: diffusers' pipeline and sampler, one image at a time."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from agfsync import catalog
from agfsync.recipe.online import RewardGradientSettings
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.methods.reward_gradient import RewardGradient, list_window
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.reference import AdaptersOff, FrozenCopy
from agfsync.training.rewards import Rewards

pytestmark = pytest.mark.slow

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
    questions = [()] * len(prompts)
    return PromptData(prompts, questions, model.encode_prompts(prompts), model.encode_prompts([NEGATIVE]), rewards)


@dataclass(frozen=True)
class Naive:
    """One image as diffusers samples it, with an unconditional pass of its own."""

    actor: Actor
    method: RewardGradient
    first: int
    last: int
    read: dict[str, Any] = field(default_factory=dict)
    """prompt -> its conditioning, which no network in training changes"""

    def loss(self, prompt: str, noise: Tensor) -> Tensor:
        clean, penalty = self.sample(prompt, noise[None])
        vae = self.actor.model._pipeline.vae  # type: ignore[attr-defined]
        decoded = vae.decode(clean / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)).sample
        pixels = decoded / 2 + 0.5
        # Clamped in value alone: some pixels are saturated.
        pixels = pixels + (pixels.clamp(0, 1) - pixels).detach()
        value = 100 * ((pixels - len(prompt) / 40) ** 2).mean()
        if self.method.loss == "refl":
            hinge = self.method.margin - (value - 30) / 20  # type: ignore[operator]
            return self.method.scale * (hinge if hinge > 0 else 0 * hinge) + self.method.kl * penalty
        return -self.method.scale * value + self.method.kl * penalty

    def sample(self, prompt: str, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean latents that the last step predicts, and the mean squared difference to the base."""
        model: Any = self.actor.model
        base: Any = self.actor.reference
        flow = isinstance(model._scheduler, FlowMatchEulerDiscreteScheduler)
        scheduler = deepcopy(model._scheduler) if flow else DDIMScheduler.from_config(model._scheduler.config)
        scheduler.set_timesteps(self.method.steps)
        penalties = []
        for number, timestep in enumerate(scheduler.timesteps[: self.last + 1]):
            with torch.set_grad_enabled(number >= self.first):
                predicted = self.guide(model.network, prompt, latents, timestep)
            if number >= self.first:
                with torch.no_grad():
                    frozen = self.guide(base._network, prompt, latents, timestep)
                penalties.append(((predicted - frozen) ** 2).mean())
            if flow:
                sigma, next_sigma = scheduler.sigmas[number : number + 2]
                clean, latents = latents - sigma * predicted, latents + (next_sigma - sigma) * predicted
            else:
                step = scheduler.step(predicted, timestep, latents, eta=0.0)
                clean, latents = step.pred_original_sample, step.prev_sample
        return clean, torch.stack(penalties).mean()

    def guide(self, network: Any, prompt: str, latents: Tensor, timestep: Tensor) -> Tensor:
        found = []
        for text in (NEGATIVE, prompt):
            if text not in self.read:
                self.read[text] = self.actor.model.encode_prompts([text])  # type: ignore[attr-defined]
            told = self.read[text]
            arguments = {"encoder_hidden_states": told["encoder_hidden_states_BTD"], "timestep": timestep[None]}
            if "pooled_projections_BE" in told:
                arguments["pooled_projections"] = told["pooled_projections_BE"]
            found.append(network(latents, **arguments).sample)
        return found[0] + self.method.guidance * (found[1] - found[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6, "standard": {"tint": [30.0, 20.0]}},
        {"steps": 6, "standard": {"tint": [30.0, 20.0]}, "guidance": 3.0, "kl": 0.5, "scale": 1.0, "window": [0, 1]},
        {"loss": "draft", "steps": 4, "guidance": 1.0, "kl": 0.0},
        {"loss": "draft", "steps": 4, "last": 3},
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
    alone = Naive(actor, method, batch.first, batch.last)
    rows = zip(batch.rows_B.tolist(), batch.noise_BCHW, strict=True)
    naive = torch.stack([alone.loss(PROMPTS[row], noise) for row, noise in rows]).mean()
    naive_gradients = torch.autograd.grad(naive, weights, allow_unused=True)
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    scale = max(each.abs().max() for each in naive_gradients if each is not None)
    assert scale > 0 and metrics["loss"] == loss.detach() and set(method.curves) <= metrics.keys()
    for ours, theirs in zip(gradients, naive_gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-5, atol=1e-5)


@pytest.fixture
def lora(tiny_generator: Path, nudge: Nudge) -> Actor:
    model = catalog.build("models", {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu"})
    add_adapters(model.network, 2, 2, 0, model.adapter_targets)
    nudge(model.network)
    return Actor(model, AdaptersOff(model.network), "fp32")


def gradient_of(actor: Actor, loss: Tensor) -> Tensor:
    weights = [p for p in actor.network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat([each.flatten() for each in found if each is not None])


def test_refl_trains_one_step_of_the_last_quarter() -> None:
    method, source = build(), torch.Generator().manual_seed(0)
    drawn = [method.draw_steps(source) for _ in range(400)]
    assert {first for first, _ in drawn} == set(range(30, 40)) and all(first == last for first, last in drawn)
    assert build(loss="draft", last=3).draw_steps(source) == (47, 49)
    assert (
        list_window((0.0, 0.25), 8) == [0, 1] and list_window((0.9, 1.0), 4) == [3] and list_window((0.3, 0.4), 4) == []
    )


def test_a_step_is_drawn_once_for_all_rows_and_follows_from_the_seed(lora: Actor) -> None:
    objective = build(steps=20, window=[0, 1]).objective(make_data(lora.model), PLAN)
    steps = []
    for step in range(8):
        (whole,) = objective.collect(lora, step, torch.arange(4))
        (share,) = objective.collect(lora, step, torch.tensor([2, 3]))
        assert (share.first, share.last) == (whole.first, whole.last)
        assert torch.equal(share.noise_BCHW, whole.noise_BCHW[2:]) and torch.equal(share.rows_B, whole.rows_B[2:])
        steps.append(whole.first)
    assert len(set(steps)) > 3


@pytest.mark.parametrize("settings", [{"kl": 0.3}, {"loss": "draft", "last": 2}], ids=["ReFL", "DRaFT+"])
def test_a_batch_of_any_size_is_the_mean_of_its_rows(lora: Actor, settings: dict[str, Any]) -> None:
    """Also five rows of three prompts: the noise has the size of the rows that there are."""
    objective = build(steps=4, **settings).objective(make_data(lora.model), replace(PLAN, batch=5))
    (batch,) = objective.collect(lora, 0, torch.arange(5))
    loss, _ = objective.loss(lora, batch)
    parts = [objective.loss(lora, batch.part(torch.tensor([row]), lora.device))[0] for row in range(5)]
    torch.testing.assert_close(loss, torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)
    ours, theirs = gradient_of(lora, loss), gradient_of(lora, torch.stack(parts).mean())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("loss", ["refl", "draft"])
def test_saturated_pixels_have_a_gradient(lora: Actor, loss: str) -> None:
    """In the published code their clamp has none."""
    model: Any = lora.model
    with torch.no_grad():
        model._pipeline.vae.decoder.conv_out.weight *= 1e4
    method = build(loss=loss, steps=4, guidance=1.0, kl=0.0)
    objective = method.objective(make_data(model), PLAN)
    (batch,) = objective.collect(lora, 0, torch.arange(4))
    pixels = model.decode_pixels(batch.noise_BCHW)
    assert ((pixels == 0) | (pixels == 1)).float().mean() > 0.99
    value, _ = objective.loss(lora, batch)
    assert gradient_of(lora, value).abs().max() > 0


def test_a_reward_above_the_margin_has_no_gradient(lora: Actor) -> None:
    objective = build(steps=4, margin=-100.0).objective(make_data(lora.model), PLAN)
    (batch,) = objective.collect(lora, 0, torch.arange(4))
    loss, metrics = objective.loss(lora, batch)
    assert loss.item() == 0 and gradient_of(lora, loss).abs().max() == 0
    assert metrics["reward"] > -100


@pytest.mark.parametrize(
    ("settings", "scorer", "standard"),
    [
        ({"standard": {"tint": [20.0, 4.0]}}, Standardised(), lambda values: (values - 20) / 4),
        ({}, Standardised(), lambda values: values.log()),
        ({"loss": "draft"}, Standardised(), lambda values: values.log()),
        ({}, Tint(), lambda values: (values - 50) / 25),
        ({"loss": "draft"}, Tint(), lambda values: values),
    ],
)
def test_rewards_are_standardised(settings: Any, scorer: Any, standard: Callable[[Tensor], Tensor]) -> None:
    values = torch.tensor([10.0, 60.0])
    torch.testing.assert_close(build(**settings).standardise("tint", scorer, values), standard(values))


def test_rewards_of_several_scorers_are_weighed(lora: Actor) -> None:
    method = build(loss="draft", steps=3, reward={"tint": 2.0, "tint again": -0.5}, kl=0.0)
    objective = method.objective(make_data(lora.model), PLAN)
    (batch,) = objective.collect(lora, 0, torch.arange(4))
    loss, metrics = objective.loss(lora, batch)
    assert metrics["reward"].item() == pytest.approx(1.5 * metrics["reward_tint"].item(), rel=1e-5)
    assert loss.item() == pytest.approx(-metrics["reward"].item(), rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, {"loss": "draft", "last": 2}], ids=["ReFL", "DRaFT+"])
def test_it_learns_and_resumes_to_the_same_bits(
    lora: Actor, settings: dict[str, Any], tiny_generator: Path, tmp_path: Path
) -> None:
    def run(folder: Path, until: int | None = None) -> Tensor:
        model = catalog.build("models", {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu"})
        add_adapters(model.network, 2, 2, 0, model.adapter_targets)
        actor = Actor(model, AdaptersOff(model.network), "fp32")
        objective = build(steps=4, **settings).objective(make_data(model), PLAN)

        def stop(line: Any) -> None:
            assert set(RewardGradient.curves) <= line.keys()
            if line["step"] == until:
                raise KeyboardInterrupt

        train(actor, objective, PLAN, Checkpoints(folder, "a"), folder / "log", stop)
        return torch.cat([p.detach().flatten() for p in model.network.parameters() if p.requires_grad])

    whole = run(tmp_path / "whole")
    for step in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", step)
    assert torch.equal(run(tmp_path / "cut"), whole)
    assert whole.abs().max() > 0


def test_gradient_checkpointing_changes_no_gradient(lora: Actor) -> None:
    objective = build(loss="draft", steps=4, last=2).objective(make_data(lora.model), PLAN)
    (batch,) = objective.collect(lora, 0, torch.arange(2))
    plain = gradient_of(lora, objective.loss(lora, batch)[0])
    network: Any = lora.network
    network.enable_gradient_checkpointing()
    network.train()
    torch.testing.assert_close(gradient_of(lora, objective.loss(lora, batch)[0]), plain, rtol=1e-4, atol=1e-7)


def test_the_networks_round_and_the_latents_do_not(lora: Actor) -> None:
    objective = build(loss="draft", steps=3).objective(make_data(lora.model), PLAN)
    (batch,) = objective.collect(lora, 0, torch.arange(2))
    loss, _ = objective.loss(lora, batch)
    rounded, _ = objective.loss(replace(lora, precision="bf16"), batch)
    assert rounded.dtype == torch.float32 and rounded.item() != loss.item()
    torch.testing.assert_close(rounded, loss, rtol=0.05, atol=0.05)
    ours, theirs = gradient_of(lora, loss), gradient_of(lora, rounded)
    # Of a tiny network in bf16, whose gradients are far from those in fp32.
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.6


def test_a_reference_is_only_needed_for_the_penalty(lora: Actor) -> None:
    assert not build().uses_reference and build(kl=0.1).uses_reference and build(loss="draft").uses_reference
    alone = Actor(lora.model, None, "fp32")
    objective = build(steps=3).objective(make_data(lora.model), PLAN)
    (batch,) = objective.collect(alone, 0, torch.arange(2))
    assert objective.loss(alone, batch)[1]["reference_divergence"] == 0


def test_an_untrained_network_has_no_divergence(tiny_generator: Path) -> None:
    model = catalog.build("models", {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu"})
    add_adapters(model.network, 2, 2, 0, model.adapter_targets)
    actor = Actor(model, AdaptersOff(model.network), "fp32")
    objective = build(loss="draft", steps=3, last=2).objective(make_data(model), PLAN)
    (batch,) = objective.collect(actor, 0, torch.arange(2))
    assert objective.loss(actor, batch)[1]["reference_divergence"] == 0
