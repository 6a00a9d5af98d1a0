"""Sampling in training: images of the current network, with the log-probability of each stochastic step.

Everything except the network's forward pass is float32, and the log-probability is that of the stored state: rounding
the states to half precision would change the probability ratios by more than the clipping range.

Legend: B images in the batch, S kept steps, C H W latent channels, height, width.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import log, pi
from typing import cast

import torch
from torch import Tensor, nn

from agfsync.models.sampling import draw_noise
from agfsync.models.schedules import NoiseSchedule
from agfsync.training import Conditioning, DiffusionModel, SamplingModel
from agfsync.training.precision import autocast

LEAST_NOISE = 0.01
"""A step counts as stochastic if its noise is at least this share of the trajectory's largest noise."""


@dataclass(frozen=True, slots=True)
class GuidedPrediction:
    """The prediction with classifier-free guidance; one batch has the predictions with and without the prompt.

    Both halves record a gradient. With a guidance of 1 or less, only the prediction with the prompt is computed.
    """

    model: DiffusionModel
    guidance: float
    precision: str = "fp32"

    def predict(
        self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, prompted: Conditioning, unprompted: Conditioning
    ) -> Tensor:
        """Return the network's guided prediction, float32 (B, C, H, W); both conditionings have B rows."""
        # One context for each forward pass: autocast caches rounded weights until the context ends.
        with autocast(self.model.device, self.precision):
            if self.guidance <= 1:
                return self.model.predict(network, noisy_BCHW, times_B, prompted).float()
            both = {name: torch.cat([unprompted[name], prompted[name]]) for name in prompted}
            predicted_BCHW = self.model.predict(network, noisy_BCHW.repeat(2, 1, 1, 1), times_B.repeat(2), both)
        without_BCHW, with_BCHW = predicted_BCHW.float().chunk(2)
        return without_BCHW + self.guidance * (with_BCHW - without_BCHW)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The stochastic steps of B images: the states before and after (B, S, C, H, W), and log-probabilities (B, S).

    `times_S` and `next_times_S` are the schedule's times before and after each step, `stds_S` the standard deviations
    of the steps' noise. All tensors are on the CPU, and float32 except the times of a diffusion schedule.
    """

    latents_BCHW: Tensor
    """the final latents"""
    states_BSCHW: Tensor
    next_states_BSCHW: Tensor
    log_probabilities_BS: Tensor
    times_S: Tensor
    next_times_S: Tensor
    stds_S: Tensor


@torch.no_grad()
def sample_trajectory(
    prediction: GuidedPrediction,
    network: nn.Module,
    prompted: Conditioning,
    unprompted: Conditioning,
    seeds: Sequence[int],
    steps: int,
    eta: float,
    *,
    schedule: NoiseSchedule | None = None,
    noised: Container[int] | None = None,
) -> Trajectory:
    """Draw one image per seed in `steps` steps with noise of strength `eta`; keep the steps that have a density.

    `schedule` replaces the model's own. Only the steps in `noised`, by default all, add noise. An image's starting
    noise and the noise of its steps depend only on its seed, so that the batch doesn't affect them. Steps without
    noise, such as all steps with `eta` 0 and often the last one, have no density and are not kept. Steps with less than
    `LEAST_NOISE` of the largest noise are not kept either: their densities are so narrow that they drown the others.
    """
    model = cast(SamplingModel, prediction.model)
    sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    schedule = schedule or model.schedule
    grid = schedule.grid(steps)
    state_BCHW = draw_noise(sources, model.latent_shape).to(model.device)
    kept: list[tuple[Tensor, Tensor, Tensor, int, float]] = []
    for place in range(len(grid) - 1):
        time_B, next_time_B = (grid[each].repeat(len(seeds)).to(model.device) for each in (place, place + 1))
        predicted_BCHW = prediction.predict(network, state_BCHW, time_B, prompted, unprompted)
        strength = eta if noised is None or place in noised else 0.0
        mean_BCHW, std = schedule.transition(predicted_BCHW, state_BCHW, time_B, next_time_B, strength)
        noise_BCHW = draw_noise(sources, model.latent_shape).to(model.device)
        if bool((std > 0).all()):
            after_BCHW = mean_BCHW + std * noise_BCHW
            log_probability_B = compute_log_probability(after_BCHW, mean_BCHW, std)
            kept.append((state_BCHW.cpu(), after_BCHW.cpu(), log_probability_B.cpu(), place, std.max().item()))
        else:
            after_BCHW = mean_BCHW
        state_BCHW = after_BCHW
    empty = torch.zeros(len(seeds), 0, *model.latent_shape)
    least = LEAST_NOISE * max((std for *_, std in kept), default=0.0)
    kept = [each for each in kept if each[-1] >= least]
    places = torch.tensor([place for *_, place, _ in kept], dtype=torch.int64)
    return Trajectory(
        state_BCHW.cpu(),
        torch.stack([each[0] for each in kept], dim=1) if kept else empty,
        torch.stack([each[1] for each in kept], dim=1) if kept else empty,
        torch.stack([each[2] for each in kept], dim=1) if kept else empty[..., 0, 0, 0],
        grid[places],
        grid[places + 1],
        torch.tensor([std for *_, std in kept]),
    )


def compute_log_probability(after_BCHW: Tensor, mean_BCHW: Tensor, std: Tensor) -> Tensor:
    """Return the log-density of a Gaussian step, averaged over the latent's elements: float32 (B,).

    The mean and not the sum (as in DDPO's code): a sum over thousands of elements makes every ratio 0 or infinite.

    Args:
        std: above 0, (B, 1, 1, 1).
    """
    log_density_BCHW = -((after_BCHW - mean_BCHW).square()) / (2 * std**2) - std.log() - log(2 * pi) / 2
    return log_density_BCHW.mean(dim=(1, 2, 3))
