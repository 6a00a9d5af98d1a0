"""The hinge loss (RSO, Liu et al. 2023, arXiv:2309.06657, Eq. 11) on the margin of Diffusion-DPO."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, pair_metrics, reward_margin


@dataclass(frozen=True)
class DiffusionHinge(PairMethod):
    """The method `hinge`. `beta` is that of `dpo`; it says at which margin a pair is done with."""

    beta: float

    def loss(self, errors: PairErrors) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_hinge(errors, self.beta)


def diffusion_hinge(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """max(0, 1 - beta h) with h = -[(m_w - m_w^ref) - (m_l - m_l^ref)] / 2, averaged over the pairs.

    A pair whose margin has reached 1 gives no gradient.

    Returns the loss, a float32 scalar of at least 0, 1 for an untrained network; and `pair_metrics`.
    """
    reward_margin_P = reward_margin(errors, beta)
    loss = F.relu(1 - reward_margin_P).mean()
    return loss, pair_metrics(loss, reward_margin_P, errors)
