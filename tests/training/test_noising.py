import math

import pytest
import torch
from diffusers import DDPMScheduler

from agfsync.errors import ModelError
from agfsync.training.noising import add_noise, draw_noise, epsilon_weight, min_snr_weight, squared_error, target

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


def test_min_snr_by_hand() -> None:
    # SNR 9, 1 and 0.25 against gamma 5
    alphas = torch.tensor([0.9, 0.5, 0.2])
    torch.testing.assert_close(min_snr_weight("epsilon", alphas, 5.0), torch.tensor([5 / 9, 1.0, 1.0]))
    velocity = min_snr_weight("v_prediction", alphas, 5.0)
    torch.testing.assert_close(velocity, torch.tensor([5 / 10, 1 / 2, 0.25 / 1.25]))
    with pytest.raises(ModelError, match="'sample' can't be trained"):
        min_snr_weight("sample", alphas, 5.0)


def test_min_snr_where_there_is_no_signal_or_no_noise() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert min_snr_weight("epsilon", ends, 5.0).tolist() == [1.0, 0.0]
    assert min_snr_weight("v_prediction", torch.tensor([0.0]), 5.0).tolist() == [0.0]


def test_min_snr_is_one_weight_of_the_error_in_x0() -> None:
    """The same denoised picture is judged alike, whichever way the network says it."""
    alphas, gamma = torch.tensor([0.97, 0.6, 0.1]), 5.0
    snr = alphas / (1 - alphas)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy, off = add_noise(latents, noise, alphas), 0.1
    scale = alphas.view(-1, 1, 1, 1)
    guessed_noise = (noisy - scale.sqrt() * (latents + off)) / (1 - scale).sqrt()
    for kind, predicted in (
        ("epsilon", guessed_noise),
        ("v_prediction", scale.sqrt() * guessed_noise - (1 - scale).sqrt() * (latents + off)),
    ):
        error = squared_error(predicted, target(kind, latents, noise, alphas))
        weighted = min_snr_weight(kind, alphas, gamma) * error
        torch.testing.assert_close(weighted, snr.clamp(max=gamma) * off**2, rtol=1e-3, atol=1e-6)


def test_the_weight_turns_the_error_of_v_into_that_of_the_noise_it_stands_for() -> None:
    scheduler, drawn = DDPMScheduler(prediction_type="v_prediction"), draw_noise(0, 0, SHAPE, 1000)
    latents, guess = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    alphas = scheduler.alphas_cumprod[drawn.timesteps_P]
    noisy = add_noise(latents, drawn.noise_PCHW, alphas)
    velocity = target("v_prediction", latents, drawn.noise_PCHW, alphas)
    a = alphas.view(-1, 1, 1, 1)
    noise_of = lambda v: a.sqrt() * v + (1 - a).sqrt() * noisy  # noqa: E731
    torch.testing.assert_close(noise_of(velocity), drawn.noise_PCHW, rtol=1e-4, atol=1e-5)
    weighted = epsilon_weight("v_prediction", alphas) * squared_error(guess, velocity)
    torch.testing.assert_close(weighted, squared_error(noise_of(guess), drawn.noise_PCHW), rtol=1e-4, atol=1e-6)


def test_a_noise_predicting_models_errors_are_the_noises_already() -> None:
    alphas = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(epsilon_weight("epsilon", alphas), torch.ones(3))
    with pytest.raises(ModelError, match="'sample' can't be trained"):
        epsilon_weight("sample", alphas)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_the_same_of_the_noises_errors_and_of_vs(gamma: float) -> None:
    alphas = torch.linspace(0.001, 0.999, 50)
    of_noise = epsilon_weight("v_prediction", alphas) * min_snr_weight("epsilon", alphas, gamma)
    torch.testing.assert_close(of_noise, min_snr_weight("v_prediction", alphas, gamma))
