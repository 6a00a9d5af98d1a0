import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from agfsync.models.schedules import DiffusionSchedule, FlowSchedule, NoiseSchedule
from agfsync.records import derive_seed
from agfsync.training.noising import draw_pair_noise, squared_error

SHAPE = torch.Size([3, 4, 8, 8])
DIFFUSION = DiffusionSchedule(torch.linspace(0.999, 0.01, 1000))
FLOW = FlowSchedule(FlowMatchEulerDiscreteScheduler(shift=3.0))


@pytest.mark.parametrize("schedule", [DIFFUSION, FLOW])
def test_follows_from_seed_and_step_alone(schedule: NoiseSchedule) -> None:
    first, again, next_step, other_seed = (
        draw_pair_noise(*which, SHAPE, schedule) for which in ((5, 7), (5, 7), (5, 8), (6, 7))
    )
    assert torch.equal(first.noise_PCHW, again.noise_PCHW) and torch.equal(first.times_P, again.times_P)
    assert not torch.equal(first.noise_PCHW, next_step.noise_PCHW)
    assert not torch.equal(first.noise_PCHW, other_seed.noise_PCHW)


def test_the_noise_comes_first_and_then_the_timesteps() -> None:
    """Trained weights depend on these draws to the last bit."""
    source = torch.Generator().manual_seed(derive_seed(5, "noise", 7))
    drawn = draw_pair_noise(5, 7, SHAPE, DIFFUSION)
    assert torch.equal(drawn.noise_PCHW, torch.randn(SHAPE, generator=source))
    assert torch.equal(drawn.times_P, torch.randint(1000, (3,), generator=source))
    assert torch.equal(drawn.select(torch.tensor([2, 0])).times_P, drawn.times_P[[2, 0]])


def test_squared_error_is_of_each_sample_in_float32() -> None:
    predicted = torch.zeros(2, 1, 1, 2, dtype=torch.bfloat16)
    wanted = torch.tensor([[[[1.0, 1.0]]], [[[0.0, math.sqrt(8)]]]])
    error = squared_error(predicted, wanted)
    assert error.dtype == torch.float32
    torch.testing.assert_close(error, torch.tensor([1.0, 4.0]))
