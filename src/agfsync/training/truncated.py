"""Sampling with a gradient only through its last steps, and losses on rewards: pure functions.

Legend: B images in the batch, C H W latent channels, height, width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agfsync.models.schedules import NoiseSchedule

TimedPrediction = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents (B, C, H, W), times (B,)) -> the network's prediction"""


@dataclass(frozen=True, slots=True)
class PredictedStep:
    """A sampling step with a gradient: the latents before the step, its times (B,), and the network's prediction."""

    noisy_BCHW: Tensor
    times_B: Tensor
    predicted_BCHW: Tensor


@dataclass(frozen=True, slots=True)
class TruncatedSample:
    """The clean latents (B, C, H, W) that the last step predicts, and the steps with a gradient, in order."""

    clean_BCHW: Tensor
    steps: Sequence[PredictedStep]


def draw_truncated(
    schedule: NoiseSchedule, predict: TimedPrediction, noise_BCHW: Tensor, grid: Tensor, first: int, last: int
) -> TruncatedSample:
    """Sample with `predict` from noise N(0, I), deterministically; only steps `first` to `last` have a gradient.

    The steps before `first` keep no graph. The sample is the clean latents that step `last` predicts, even if further
    steps would follow. All latents are float32. The noise is that of the schedule's own process: no sampler scales it.

    Args:
        grid: the times of the full sampling, from the schedule's `grid`.
        first: the first step with a gradient, counted from 0.
        last: the last step.
    """
    latents_BCHW, steps = noise_BCHW.float(), list[PredictedStep]()
    for step in range(last + 1):
        times_B, next_times_B = (time.expand(len(noise_BCHW)) for time in (grid[step], grid[step + 1]))
        with torch.set_grad_enabled(step >= first):
            predicted_BCHW = predict(latents_BCHW, times_B).float()
            if step >= first:
                steps.append(PredictedStep(latents_BCHW, times_B, predicted_BCHW))
            if step < last:
                latents_BCHW, _ = schedule.transition(predicted_BCHW, latents_BCHW, times_B, next_times_B, 0.0)
    return TruncatedSample(schedule.clean(predicted_BCHW, latents_BCHW, times_B), steps)


def weigh_rewards(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the scorers' rewards, (B,)."""
    return torch.stack([weight * rewards[name] for name, weight in weights.items()]).sum(0)


def refl_loss(rewards_B: Tensor, margin: float = 2.0, scale: float = 1e-3) -> Tensor:
    """Return `scale` times the mean of relu(margin - reward): images with a reward above `margin` have no gradient.

    ReFL (Xu et al. 2023, arXiv:2304.05977, algorithm 1, with the map of its published code). Rewards are standardised.
    """
    return scale * (margin - rewards_B).relu().mean()


def draft_loss(rewards_B: Tensor, scale: float = 1.0) -> Tensor:
    """Return `scale` times the mean of -reward (DRaFT, Clark et al. 2024, arXiv:2309.17400)."""
    return -scale * rewards_B.mean()


def measure_divergence(predicted_BCHW: Sequence[Tensor], reference_BCHW: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference between the predictions and the reference's, over steps, rows and elements.

    In DRaFT+ this is the KL divergence between two Gaussians of equal variance, without its constant factor.
    """
    pairs = zip(predicted_BCHW, reference_BCHW, strict=True)
    return torch.stack([(ours.float() - theirs.float()).square().mean() for ours, theirs in pairs]).mean()
