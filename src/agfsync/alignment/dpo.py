"""Diffusion-DPO (the paper's Eq. 8): lower the winner's error against the reference's more than the loser's."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agfsync.alignment import PairErrors


@dataclass(frozen=True, slots=True)
class DiffusionDPO:
    """The method `dpo`. `beta` holds it to the reference: 2000 to 5000 at Stable Diffusion's scale."""

    beta: float

    def loss(self, errors: PairErrors) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_dpo(errors, self.beta)


def diffusion_dpo(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(-(beta / 2) [(m_w - m_w^ref) - (m_l - m_l^ref)]), averaged over the pairs.

    Returns the loss, and as metrics the share of pairs whose margin has the right sign (a tie is one half, so that an
    untrained network starts at 0.5) and the mean change of the winner's and of the loser's error, apart because the
    margin can grow while both get worse.
    """
    winner_change_P = errors.winner_P - errors.winner_reference_P
    loser_change_P = errors.loser_P - errors.loser_reference_P
    reward_margin_P = -(beta / 2) * (winner_change_P - loser_change_P)
    loss = -F.logsigmoid(reward_margin_P).mean()
    return loss, {
        "loss": loss.detach(),
        "implicit_accuracy": implicit_accuracy(reward_margin_P.detach()),
        "winner_error_change": winner_change_P.detach().mean(),
        "loser_error_change": loser_change_P.detach().mean(),
    }


def implicit_accuracy(reward_margin_P: Tensor) -> Tensor:
    """The share of margins above 0, ties counting one half."""
    return (torch.sign(reward_margin_P) + 1).mean() / 2
