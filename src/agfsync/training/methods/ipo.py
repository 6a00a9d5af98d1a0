"""IPO (Azar et al. 2023, arXiv:2310.12036, Eq. 17) on the margin of Diffusion-DPO: a margin to reach, not to stretch.

The sigmoid's loss never stops pulling a pair apart; this one is a square about one half, so that pairs which are told
apart well enough pull back, and beta keeps the network near its reference however long it trains.
"""

from dataclasses import dataclass

from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, pair_metrics, reward_margin


@dataclass(frozen=True)
class DiffusionIPO(PairMethod):
    """The method `ipo`. `beta` is that of `dpo`, and the tau of IPO's paper."""

    beta: float

    def loss(self, errors: PairErrors) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_ipo(errors, self.beta)


def diffusion_ipo(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(beta h - 1 / 2)^2 with h = -[(m_w - m_w^ref) - (m_l - m_l^ref)] / 2, averaged over the pairs.

    The paper's is (h - 1 / (2 beta))^2: this is beta^2 times as much, with the same minimum, so that the gradients of a
    large beta are of the size of the sigmoid's and don't drown in AdamW's epsilon.

    Returns the loss, a float32 scalar of at least 0, 1/4 for an untrained network; and `pair_metrics`.
    """
    reward_margin_P = reward_margin(errors, beta)
    loss = (reward_margin_P - 0.5).square().mean()
    return loss, pair_metrics(loss, reward_margin_P, errors)
