"""DiffusionNFT (Zheng et al. 2025, arXiv:2509.16117): train towards good images and away from bad ones.

It needs no likelihood of a policy.

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
    """The method `nft`. A moving average of the network draws the images.

    `beta` is b in `compute_nft_loss`: a smaller value is faster and less stable. The decay of the average is
    min(`decay_rate` t, `decay_limit`) after t updates.
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

    v+ = b v + (1 - b) v_old and v- = (1 + b) v_old - b v, where v is the trained network's prediction and v_old that of
    the network that drew the images. r is the image's advantage, scaled to 0..1. The two errors are those of
    `normalise_error`.
    """
    return limit * (optimality_B * better_B + (1 - optimality_B) * worse_B) / beta


def normalise_error(estimate_BCHW: Tensor, clean_BCHW: Tensor) -> Tensor:
    """Return the mean squared error of the clean latents, divided by the mean absolute error without a gradient: (B,).

    The published code does this, unlike the paper, since errors of the clean latents grow with the noise.
    """
    difference_BCHW = estimate_BCHW - clean_BCHW
    size_B = difference_BCHW.detach().abs().mean(dim=(1, 2, 3)).clamp(min=1e-5)
    return torch.div(difference_BCHW.square().mean(dim=(1, 2, 3)), size_B)
