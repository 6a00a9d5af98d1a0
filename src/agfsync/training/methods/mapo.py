"""MaPO (Hong et al. 2024, arXiv:2406.06424): the winner's error plus a margin loss without a reference model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, compute_implicit_accuracy


@dataclass(frozen=True)
class MaPO(PairMethod):
    """The method `mapo`. It needs no reference, which saves memory and a forward pass in each step.

    `beta` is the weight of the margin loss, `snr` is s in `score_error`, and `scale` is T, the authors' number of
    timesteps.
    """

    beta: float = 0.1
    snr: float = 0.5
    scale: float = 1000.0

    uses_reference: ClassVar[bool] = False
    curves: ClassVar[Sequence[str]] = ("loss", "implicit_accuracy", "winner_error", "loser_error")

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        margin_P = self.scale * (score_error(errors.winner_P, self.snr) - score_error(errors.loser_P, self.snr))
        loss = (errors.winner_P - beta * F.logsigmoid(margin_P)).mean()
        return loss, {
            "loss": loss.detach(),
            "implicit_accuracy": compute_implicit_accuracy(margin_P.detach()),
            "winner_error": errors.winner_P.detach().mean(),
            "loser_error": errors.loser_P.detach().mean(),
        }


def score_error(error_P: Tensor, snr: float) -> Tensor:
    """Return s m / (e^(s m) - 1) of the errors m, in 0..1; it is 1 at m = 0 and decreases with m."""
    scaled_P = snr * error_P
    return torch.where(scaled_P == 0, torch.ones_like(scaled_P), scaled_P / torch.expm1(scaled_P.clamp(min=1e-12)))
