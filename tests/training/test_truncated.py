"""Sampling with a gradient through its last steps, and the losses of rewards."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agfsync import catalog
from agfsync.training import DifferentiableModel
from agfsync.training.truncated import (
    TruncatedSample,
    draft_loss,
    draw_truncated,
    measure_divergence,
    refl_loss,
    weigh_rewards,
)

STEPS = 6
PROMPTS = ["a red circle", "two green squares"]


@pytest.fixture(params=["stable-diffusion", "stable-diffusion-3"])
def model(request: pytest.FixtureRequest, tiny_generator: Path, tiny_sd3_generator: Path) -> DifferentiableModel:
    folder = tiny_generator if request.param == "stable-diffusion" else tiny_sd3_generator
    # Not square, and not the size that the network was made for.
    settings = {"type": request.param, "path": str(folder), "height": 16, "width": 24, "device": "cpu"}
    made: DifferentiableModel = catalog.build("models", settings)
    made.network.requires_grad_(True)
    return made


Sample = Callable[..., TruncatedSample]


@pytest.fixture
def sample(model: DifferentiableModel) -> Sample:
    text = model.encode_prompts(PROMPTS)
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))

    def draw(first: int, last: int, network: nn.Module = model.network) -> TruncatedSample:
        def predict(noisy: Tensor, times: Tensor) -> Tensor:
            return model.predict(network, noisy, times, text)

        return draw_truncated(model.schedule, predict, noise, model.schedule.grid(STEPS), first, last)

    return draw


def count_saved(draw: Callable[[], object]) -> int:
    """The tensors that are kept for the way back."""
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        draw()
    return kept


@pytest.mark.parametrize("last", [0, 3, STEPS - 1])
def test_steps_without_a_gradient_keep_nothing(sample: Sample, last: int) -> None:
    drawn = sample(last, last)
    assert len(drawn.steps) == 1 and drawn.clean_BCHW.requires_grad
    assert not drawn.steps[0].noisy_BCHW.requires_grad
    # As many as for the first step alone, whatever came before.
    assert count_saved(lambda: sample(last, last)) == count_saved(lambda: sample(0, 0))
    assert count_saved(lambda: sample(last + 1, last)) == 0


def test_where_the_gradient_begins_changes_no_value(sample: Sample) -> None:
    whole, cut, late = sample(0, STEPS - 1), sample(STEPS - 2, STEPS - 1), sample(STEPS, STEPS - 1)
    assert torch.equal(whole.clean_BCHW, cut.clean_BCHW) and torch.equal(whole.clean_BCHW, late.clean_BCHW)
    assert (len(whole.steps), len(cut.steps), len(late.steps)) == (STEPS, 2, 0)
    assert cut.steps[1].noisy_BCHW.requires_grad and not late.clean_BCHW.requires_grad
    assert torch.equal(whole.steps[4].times_B, cut.steps[0].times_B)


def test_the_gradient_goes_through_the_chain_of_latents(sample: Sample, model: DifferentiableModel) -> None:
    """With two steps it is that of a step after constant latents, and what went through the latents."""
    weights = list(model.network.parameters())
    one, two = sample(STEPS - 1, STEPS - 1), sample(STEPS - 2, STEPS - 1)
    of_one = torch.autograd.grad(one.clean_BCHW.square().mean(), weights, allow_unused=True)
    of_two = torch.autograd.grad(two.clean_BCHW.square().mean(), weights, allow_unused=True)
    changes = [(a - b).abs().max() / b.abs().max() for a, b in zip(of_one, of_two, strict=True) if b is not None]
    assert max(changes) > 0.05


def test_latents_are_float32_whatever_the_network_predicts_in(model: DifferentiableModel) -> None:
    noise = torch.randn(1, *model.latent_shape, dtype=torch.float64)
    seen: list[torch.dtype] = []

    def predict(noisy: Tensor, times: Tensor) -> Tensor:
        seen.append(noisy.dtype)
        return noisy.to(torch.bfloat16)

    drawn = draw_truncated(model.schedule, predict, noise, model.schedule.grid(4), 2, 3)
    assert set(seen) == {torch.float32} and drawn.clean_BCHW.dtype == torch.float32


def test_rewards_are_weighed() -> None:
    rewards = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, -10.0]), "unused": torch.tensor([5.0, 5.0])}
    assert weigh_rewards(rewards, {"a": 2.0, "b": 0.5}).tolist() == [7.0, -1.0]


def test_refl_stops_at_good_images() -> None:
    rewards = torch.tensor([-1.0, 1.5, 2.0, 3.0], requires_grad=True)
    loss = refl_loss(rewards)
    assert loss.item() == pytest.approx(1e-3 * (3 + 0.5) / 4)
    (gradient,) = torch.autograd.grad(loss, rewards)
    assert gradient.tolist() == pytest.approx([-1e-3 / 4, -1e-3 / 4, 0, 0])
    assert refl_loss(rewards, margin=4.0, scale=2.0).item() == pytest.approx(2 * (5 + 2.5 + 2 + 1) / 4)


def test_draft_is_the_mean_reward() -> None:
    rewards = torch.tensor([-1.0, 4.0], requires_grad=True)
    assert draft_loss(rewards, 2.0).item() == pytest.approx(-3.0)
    assert torch.autograd.grad(draft_loss(rewards), rewards)[0].tolist() == [-0.5, -0.5]


def test_the_divergence_is_a_mean_over_steps_and_elements() -> None:
    ours = [torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)]
    theirs = [torch.tensor([[[[1.0, 2.0]]], [[[3.0, 0.0]]]]), torch.ones(2, 1, 1, 2)]
    assert measure_divergence(ours, theirs).item() == pytest.approx((1 + 4 + 9 + 0) / 4 / 2)
