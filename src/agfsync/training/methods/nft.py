"""DiffusionNFT (Zheng et al. 2025, arXiv:2509.16117): towards good images and away from bad ones, without a policy.

Legend: B images, C H W latent channels, height, width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agfsync.models.schedules import NoiseSchedule
from agfsync.training.methods.clean_images import CleanBatch, CleanImageMethod


@dataclass(frozen=True, kw_only=True)
class DiffusionNFT(CleanImageMethod):
    """The method `nft`. The images are drawn by a moving average of the network.

    `beta` is b of `compute_nft_loss`: smaller is faster and less stable. After t updates the average keeps the share
    min(`decay_rate` t, `decay_limit`) of itself.
    """

    beta: float = 1.0
    decay_rate: float = 1e-3
    decay_limit: float = 0.5

    keeps_old: ClassVar[bool] = True

    def find_decay(self, updates: int) -> float:
        return min(self.decay_rate * updates, self.decay_limit)

    def compute_errors(
        self, schedule: NoiseSchedule, batch: CleanBatch, noisy_BCHW: Tensor, predicted_BCHW: Tensor
    ) -> Tensor:
        optimality_B = (batch.advantages_B / self.advantage_limit).clamp(-1, 1) / 2 + 0.5
        better_BCHW = self.beta * predicted_BCHW + (1 - self.beta) * batch.old_BCHW
        worse_BCHW = (1 + self.beta) * batch.old_BCHW - self.beta * predicted_BCHW
        errors = [
            normalise_error(schedule.clean(each, noisy_BCHW, batch.times_B), batch.clean_BCHW)
            for each in (better_BCHW, worse_BCHW)
        ]
        return compute_nft_loss(errors[0], errors[1], optimality_B, self.beta, self.advantage_limit)


def compute_nft_loss(
    better_B: Tensor, worse_B: Tensor, optimality_B: Tensor, beta: float, limit: float = 5.0
) -> Tensor:
    """Return limit [r |x(v+) - x_0|^2 + (1 - r) |x(v-) - x_0|^2] / b, float32 (B,).

    v+ = b v + (1 - b) v_old and v- = (1 + b) v_old - b v, where v is the prediction and v_old that of the network which
    drew the images; r is the image's reward in its group, in 0..1. The two errors are those of `normalise_error`.
    """
    return limit * (optimality_B * better_B + (1 - optimality_B) * worse_B) / beta


def normalise_error(estimate_BCHW: Tensor, clean_BCHW: Tensor) -> Tensor:
    """Return the mean squared error of the clean latents, divided by its mean size without a gradient: (B,).

    The published code does so beyond its paper, since errors of the clean latents grow with the noise.
    """
    difference_BCHW = estimate_BCHW - clean_BCHW
    size_B = difference_BCHW.detach().abs().mean(dim=(1, 2, 3)).clamp(min=1e-5)
    return torch.div(difference_BCHW.square().mean(dim=(1, 2, 3)), size_B)
