"""Diffusion-DPO (the paper's Eq. 8): lower the winner's error against the reference's more than the loser's."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, pair_metrics, reward_margin


@dataclass(frozen=True)
class DiffusionDPO(PairMethod):
    """The method `dpo`. `beta` holds it to the reference: 2000 to 5000 for Stable Diffusion 1.5 and SDXL in
    Diffusion-DPO, of errors of the noise (see `training.loss_space` for models that predict v).
    """

    beta: float

    def loss(self, errors: PairErrors) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_dpo(errors, self.beta)


def diffusion_dpo(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(-(beta / 2) [(m_w - m_w^ref) - (m_l - m_l^ref)]), averaged over the pairs.

    Returns the loss, a float32 scalar of at least 0, log 2 for an untrained network; and `pair_metrics`.
    """
    reward_margin_P = reward_margin(errors, beta)
    loss = -F.logsigmoid(reward_margin_P).mean()
    return loss, pair_metrics(loss, reward_margin_P, errors)
