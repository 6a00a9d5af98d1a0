"""Diffusion-DPO (Eq. 8; Wallace et al. 2023, arXiv:2311.12908): lower the winner's error more than the loser's."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, compute_pair_metrics, compute_reward_margin


@dataclass(frozen=True)
class DiffusionDPO(PairMethod):
    """The method `dpo`. `beta` is the strength of the penalty for the distance to the reference.

    Diffusion-DPO uses 2000 for Stable Diffusion 1.5 and 5000 for SDXL, with the errors of the noise. For models that
    predict v, see `training.loss_space`.
    """

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_dpo(errors, beta)


def diffusion_dpo(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean of -log sigmoid(-(beta / 2) [(m_w - m_w^ref) - (m_l - m_l^ref)]) over the pairs.

    The loss is a float32 scalar of at least 0, log 2 for an untrained network; the metrics are `compute_pair_metrics`.
    """
    reward_margin_P = compute_reward_margin(errors, beta)
    loss = -F.logsigmoid(reward_margin_P).mean()
    return loss, compute_pair_metrics(loss, reward_margin_P, errors)
