"""Noise schedules against their formulas and against the schedulers of diffusers."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.schedules import CLEAN_END, DiffusionSchedule, FlowSchedule, NoiseSchedule, mean_shift
from agfsync.training.noising import squared_error

SHAPE = torch.Size([3, 4, 8, 8])
KINDS = ("epsilon", "v_prediction")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SD = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)


def of_alphas(alphas: list[float], kind: str = "epsilon") -> DiffusionSchedule:
    return DiffusionSchedule(torch.tensor(alphas), kind)


def flow(**config: float | bool) -> FlowSchedule:
    return FlowSchedule(FlowMatchEulerDiscreteScheduler(**config))


def one(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


def randn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FIRST = torch.tensor([0])


def test_noise_by_hand() -> None:
    assert of_alphas([0.36]).noisy(one(2.0), one(3.0), FIRST).item() == pytest.approx(0.6 * 2 + 0.8 * 3)
    assert flow().noisy(one(2.0), one(3.0), torch.tensor([0.25])).item() == pytest.approx(0.75 * 2 + 0.25 * 3)


def test_targets_by_hand() -> None:
    assert of_alphas([0.36]).target(one(2.0), one(3.0), FIRST).item() == 3.0
    v = of_alphas([0.36], "v_prediction").target(one(2.0), one(3.0), FIRST)
    assert v.item() == pytest.approx(0.6 * 3 - 0.8 * 2)
    assert flow().target(one(2.0), one(3.0), torch.tensor([0.25])).item() == 1.0
    with pytest.raises(ModelError, match="'sample' can't be trained"):
        of_alphas([0.36], "sample")


def test_diffusion_agrees_with_diffusers() -> None:
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    schedule, clean, noise = DiffusionSchedule.from_scheduler(scheduler), randn(1), randn(2)
    times = schedule.times(source(), 3)
    torch.testing.assert_close(schedule.noisy(clean, noise, times), scheduler.add_noise(clean, noise, times))
    torch.testing.assert_close(schedule.target(clean, noise, times), scheduler.get_velocity(clean, noise, times))


def test_flow_agrees_with_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule, clean, noise = FlowSchedule(scheduler), randn(1), randn(2)
    rows = [10, 500, 990]
    theirs = scheduler.scale_noise(clean, scheduler.timesteps[rows], noise)
    torch.testing.assert_close(schedule.noisy(clean, noise, scheduler.sigmas[rows]), theirs)


def test_training_timesteps_cover_a_diffusion() -> None:
    times = of_alphas([0.5] * 10).times(source(), 4000)
    assert times.dtype == torch.int64 and times.bincount(minlength=10).min() > 300 and times.max() == 9


@pytest.mark.parametrize("sampling", ["uniform", "logit-normal"])
def test_training_times_of_a_flow_are_shifted_as_its_sampling_is(sampling: str) -> None:
    plain, shifted = (
        FlowSchedule(FlowMatchEulerDiscreteScheduler(shift=k), sampling=sampling).times(source(), 20_000)  # type: ignore[arg-type]
        for k in (1.0, 3.0)
    )
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    assert plain.min() >= 0 and plain.max() <= 1 and abs(plain.mean() - 0.5) < 0.01
    # The standard deviation of a uniform number is 0.289, that of a logit-normal one 0.208.
    assert abs(plain.std() - {"uniform": 0.289, "logit-normal": 0.208}[sampling]) < 0.005


def test_the_training_times_have_a_shift_of_their_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain, shifted = (
        FlowSchedule(scheduler, sampling="uniform", training_shift=shift).times(source(), 9) for shift in (1.0, 2.0)
    )
    torch.testing.assert_close(plain, torch.rand(9, generator=source()))
    torch.testing.assert_close(shifted, 2 * plain / (1 + plain))


def test_a_shift_by_size_is_the_schedulers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    schedule = FlowSchedule(scheduler, tokens=1024, sampling="uniform")
    plain = torch.rand(5, generator=source())
    mu = mean_shift(scheduler.config, 1024)
    assert mu is not None
    torch.testing.assert_close(schedule.times(source(), 5), scheduler.time_shift(mu, 1.0, plain))


def test_mu_is_as_the_paper_of_the_model_has_it() -> None:
    config = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config
    assert [mean_shift(config, tokens) for tokens in (256, 4096)] == pytest.approx([0.5, 1.15])
    assert mean_shift(FlowMatchEulerDiscreteScheduler(shift=3.0).config, 4096) is None


EACH: dict[str, tuple[NoiseSchedule, Tensor]] = {
    **{kind: (of_alphas([0.97, 0.6, 0.1], kind), torch.tensor([0, 1, 2])) for kind in KINDS},
    "velocity": (flow(), torch.tensor([0.1, 0.5, 0.9])),
}


@pytest.mark.parametrize("kind", EACH)
def test_a_perfect_prediction_gives_the_clean_latents(kind: str) -> None:
    schedule, times = EACH[kind]
    assert schedule.prediction_type == kind
    clean, noise = randn(1), randn(2)
    noisy, target = schedule.noisy(clean, noise, times), schedule.target(clean, noise, times)
    torch.testing.assert_close(schedule.clean(target, noisy, times), clean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_one_weight_of_the_error_in_x0(kind: str, gamma: float) -> None:
    """The same denoised image counts alike, whichever way the network says it."""
    schedule, times = EACH[kind]
    signal = one(1.0)
    scales = [schedule.noisy(*pair, times).flatten() for pair in ((signal, 0 * signal), (0 * signal, signal))]
    snr = (scales[0] / scales[1]) ** 2
    noisy, guess = schedule.noisy(randn(1), randn(2), times), randn(3)
    target = schedule.target(randn(1), randn(2), times)
    error = squared_error(schedule.clean(guess, noisy, times), randn(1))
    weighted = schedule.weight(times, gamma) * squared_error(guess, target)
    torch.testing.assert_close(weighted, snr.clamp(max=gamma) * error, rtol=1e-3, atol=1e-6)
    assert torch.equal(schedule.weight(times, gamma), schedule.weight(times, gamma, "epsilon"))


def test_min_snr_by_hand() -> None:
    # SNR 9, 1 and 0.25 against gamma 5
    alphas, times = [0.9, 0.5, 0.2], torch.arange(3)
    torch.testing.assert_close(of_alphas(alphas).weight(times, 5.0), torch.tensor([5 / 9, 1.0, 1.0]))
    velocity = of_alphas(alphas, "v_prediction").weight(times, 5.0)
    torch.testing.assert_close(velocity, torch.tensor([5 / 10, 1 / 2, 0.25 / 1.25]))


def test_min_snr_where_there_is_no_signal_or_no_noise() -> None:
    times = torch.arange(2)
    assert of_alphas([0.0, 1.0]).weight(times, 5.0).tolist() == [1.0, 0.0]
    assert of_alphas([0.0, 0.5], "v_prediction").weight(times, 5.0)[0] == 0.0
    assert flow().weight(torch.tensor([0.0, 1.0]), 5.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", EACH)
def test_the_weight_turns_an_error_into_that_of_the_noise_it_stands_for(kind: str) -> None:
    schedule, times = EACH[kind]
    clean, noise, guess = randn(1), randn(2), randn(3)
    noisy, target = schedule.noisy(clean, noise, times), schedule.target(clean, noise, times)
    noise_of: dict[str, Callable[[Tensor], Tensor]] = {
        "epsilon": lambda e: e,
        "v_prediction": lambda v: (
            v * torch.tensor([0.97, 0.6, 0.1]).sqrt().view(3, 1, 1, 1)
            + noisy * torch.tensor([0.03, 0.4, 0.9]).sqrt().view(3, 1, 1, 1)
        ),
        "velocity": lambda v: noisy + (1 - times.view(3, 1, 1, 1)) * v,
    }
    torch.testing.assert_close(noise_of[kind](target), noise, rtol=1e-4, atol=1e-5)
    weighted = schedule.weight(times, space="epsilon") * squared_error(guess, target)
    torch.testing.assert_close(weighted, squared_error(noise_of[kind](guess), noise), rtol=1e-4, atol=1e-6)
    assert torch.equal(schedule.weight(times), torch.ones(3))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_grid_of_a_diffusion_is_ddims(spacing: str) -> None:
    scheduler = DDIMScheduler.from_config(SD.config, timestep_spacing=spacing)
    grid = DiffusionSchedule.from_scheduler(scheduler).grid(7)
    scheduler.set_timesteps(7)
    assert grid.tolist() == [*scheduler.timesteps.tolist(), CLEAN_END]


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("even", [False, True])
def test_the_grid_of_a_flow_is_its_schedulers(by_size: bool, even: bool) -> None:
    schedule = FlowSchedule(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=by_size), 1024, even_sigmas=even
    )
    grid = schedule.grid(5)
    assert len(grid) == 6 and grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(schedule.scheduler.config)
    sigmas = [1.0, 0.8, 0.6, 0.4, 0.2] if even else None
    scheduler.set_timesteps(5, sigmas=sigmas, mu=mean_shift(scheduler.config, 1024))
    torch.testing.assert_close(grid, scheduler.sigmas)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends_clean", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_of_a_diffusion_are_ddims(kind: str, ends_clean: bool, eta: float) -> None:
    scheduler = DDIMScheduler.from_config(SD.config, prediction_type=kind, set_alpha_to_one=ends_clean)
    scheduler.set_timesteps(20)
    schedule, predicted, noisy, noise = DiffusionSchedule.from_scheduler(scheduler), randn(1), randn(2), randn(3)
    grid = schedule.grid(20)
    for place in (0, 10, 19):
        times, next_times = grid[place].expand(3), grid[place + 1].expand(3)
        mean, std = schedule.transition(predicted, noisy, times, next_times, eta)
        step = scheduler.step(predicted, int(grid[place]), noisy, eta=eta, variance_noise=noise if eta else None)
        torch.testing.assert_close(mean + std * noise, step.prev_sample, rtol=1e-4, atol=1e-4)
        assert (std.flatten() > 0).all() == (eta > 0 and not (place == 19 and ends_clean))


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_steps_of_a_flow_without_noise_are_eulers(kind: str) -> None:
    schedule = FlowSchedule(FlowMatchEulerDiscreteScheduler(shift=3.0), stochastic_step=kind)  # type: ignore[arg-type]
    velocity, noisy, times, later = randn(1), randn(2), torch.tensor([1.0, 0.6, 0.2]), torch.tensor([0.9, 0.5, 0.0])
    mean, std = schedule.transition(velocity, noisy, times, later, 0.0)
    torch.testing.assert_close(mean, noisy + (later - times).view(3, 1, 1, 1) * velocity)
    assert not std.any()


def test_the_sde_step_by_hand() -> None:
    """Flow-GRPO's code in float64, which takes the second sigma in place of the first."""
    s, s_next, a, x, v = 0.8, 0.7, 0.7, 1.5, -0.4
    level, step = a * math.sqrt(s / (1 - s)), s_next - s
    mean = x * (1 + level**2 / (2 * s) * step) + v * (1 + level**2 * (1 - s) / (2 * s)) * step
    found, std = flow().transition(one(v), one(x), torch.tensor([s]), torch.tensor([s_next]), a)
    assert found.item() == pytest.approx(mean, rel=1e-5) and std.item() == pytest.approx(level * math.sqrt(-step))
    _, first = flow().transition(one(v), one(x), torch.tensor([1.0]), torch.tensor([0.9]), a)
    assert first.item() == pytest.approx(a * math.sqrt(1 / (1 - 0.9)) * math.sqrt(0.1), rel=1e-5)


@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_the_cps_step_has_the_noise_of_its_time(eta: float) -> None:
    """A perfect prediction of pure noise of variance 1 stays on x_s = (1 - s) x_0 + s e."""
    schedule = FlowSchedule(FlowMatchEulerDiscreteScheduler(), stochastic_step="cps")
    times, later = torch.full((3,), 0.8), torch.full((3,), 0.6)
    clean, noise = randn(1), randn(2)
    noisy, velocity = schedule.noisy(clean, noise, times), schedule.target(clean, noise, times)
    mean, std = schedule.transition(velocity, noisy, times, later, eta)
    kept = (mean - 0.4 * clean) / noise
    torch.testing.assert_close(kept**2 + std**2, torch.full(SHAPE, 0.36), rtol=1e-3, atol=1e-3)
    assert std.flatten()[0].item() == pytest.approx(0.6 * math.sin(eta * math.pi / 2))
