import math

import pytest
import torch
from diffusers import DDPMScheduler

from agfsync.alignment.noising import add_noise, draw_noise, squared_error, target
from agfsync.errors import ModelError

SHAPE = torch.Size([3, 4, 8, 8])


def test_noise_by_hand() -> None:
    latents, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0)
    noisy = add_noise(latents, noise, torch.tensor([0.36]))
    assert noisy.item() == pytest.approx(0.6 * 2 + 0.8 * 3)


def test_targets_by_hand() -> None:
    latents, noise, alpha = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0), torch.tensor([0.36])
    assert target("epsilon", latents, noise, alpha).item() == 3.0
    assert target("v_prediction", latents, noise, alpha).item() == pytest.approx(0.6 * 3 - 0.8 * 2)
    with pytest.raises(ModelError, match="'sample' can't be trained"):
        target("sample", latents, noise, alpha)


def test_agrees_with_diffusers() -> None:
    scheduler = DDPMScheduler()
    drawn = draw_noise(0, 0, SHAPE, 1000)
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    alphas = scheduler.alphas_cumprod[drawn.timesteps_P]
    arguments = latents, drawn.noise_PCHW, drawn.timesteps_P
    torch.testing.assert_close(add_noise(latents, drawn.noise_PCHW, alphas), scheduler.add_noise(*arguments))
    velocity = target("v_prediction", latents, drawn.noise_PCHW, alphas)
    torch.testing.assert_close(velocity, scheduler.get_velocity(*arguments))


def test_follows_from_seed_and_step_alone() -> None:
    first, again, next_step, other_seed = (
        draw_noise(*which, SHAPE, 1000) for which in ((5, 7), (5, 7), (5, 8), (6, 7))
    )
    assert torch.equal(first.noise_PCHW, again.noise_PCHW) and torch.equal(first.timesteps_P, again.timesteps_P)
    assert not torch.equal(first.noise_PCHW, next_step.noise_PCHW)
    assert not torch.equal(first.noise_PCHW, other_seed.noise_PCHW)


def test_timesteps_cover_the_schedule() -> None:
    timesteps = draw_noise(0, 0, torch.Size([4000, 1, 1, 1]), 10).timesteps_P
    assert timesteps.bincount(minlength=10).min() > 300 and timesteps.max() == 9


def test_squared_error_is_of_each_sample_in_float32() -> None:
    predicted = torch.zeros(2, 1, 1, 2, dtype=torch.bfloat16)
    wanted = torch.tensor([[[[1.0, 1.0]]], [[[0.0, math.sqrt(8)]]]])
    error = squared_error(predicted, wanted)
    assert error.dtype == torch.float32
    torch.testing.assert_close(error, torch.tensor([1.0, 4.0]))
