"""The noise of training steps and the error of a prediction: pure functions."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from agfsync.models.schedules import NoiseSchedule
from agfsync.records import derive_seed


@dataclass(frozen=True, slots=True)
class PairNoise:
    """The noise (P, C, H, W) ~ N(0, I) and the time (P,) of each pair; its winner and its loser share both.

    With `loser_noise_PCHW`, the loser has its own noise, and `noise_PCHW` is the winner's.
    """

    noise_PCHW: Tensor
    times_P: Tensor
    loser_noise_PCHW: Tensor | None = None

    @property
    def noise_BCHW(self) -> Tensor:
        """The noise of the winners, then of the losers: (2P, C, H, W)."""
        return torch.cat([self.noise_PCHW, self.noise_PCHW if self.loser_noise_PCHW is None else self.loser_noise_PCHW])

    def select(self, rows: Tensor) -> Self:
        """Return the noise of the pairs at `rows`."""
        own = None if self.loser_noise_PCHW is None else self.loser_noise_PCHW[rows]
        return type(self)(self.noise_PCHW[rows], self.times_P[rows], own)


def draw_pair_noise(seed: int, step: int, shape: torch.Size, schedule: NoiseSchedule) -> PairNoise:
    """Draw the noise of step `step`, of `shape` (P, C, H, W), from (seed, step) only: a resume draws the same."""
    source = torch.Generator().manual_seed(derive_seed(seed, "noise", step))
    noise_PCHW = torch.randn(shape, generator=source)
    return PairNoise(noise_PCHW, schedule.times(source, shape[0]))


def average_squares(error_BCHW: Tensor) -> Tensor:
    """Return each sample's mean square over C, H, W: (B,)."""
    return error_BCHW.square().mean(dim=(1, 2, 3))


def squared_error(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Return each sample's mean squared error over C, H, W, in float32: (B,)."""
    return average_squares(predicted_BCHW.float() - target_BCHW.float())
