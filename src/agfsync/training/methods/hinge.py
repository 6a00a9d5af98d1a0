"""The hinge loss (RSO, Liu et al. 2023, arXiv:2309.06657, Eq. 11) on the margin of Diffusion-DPO."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, compute_pair_metrics, compute_reward_margin


@dataclass(frozen=True)
class DiffusionHinge(PairMethod):
    """The method `hinge`. `beta` is that of `dpo`; a pair has no gradient from h = 1 / beta on."""

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_hinge(errors, beta)


def diffusion_hinge(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean of max(0, 1 - beta h) over the pairs, with h = -[(m_w - m_w^ref) - (m_l - m_l^ref)] / 2.

    A pair with a margin beta h of at least 1 has no gradient.

    The loss is a float32 scalar of at least 0, 1 for an untrained network; the metrics are `compute_pair_metrics`.
    """
    reward_margin_P = compute_reward_margin(errors, beta)
    loss = F.relu(1 - reward_margin_P).mean()
    return loss, compute_pair_metrics(loss, reward_margin_P, errors)
