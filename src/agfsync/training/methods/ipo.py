"""IPO (Azar et al. 2023, arXiv:2310.12036, Eq. 17) on the margin of Diffusion-DPO: a target for the margin.

The loss of DPO always rewards a larger margin. This loss is quadratic around a margin of one half: a pair with a larger
margin is pulled back, and beta keeps the network near its reference no matter how long it trains.
"""

from dataclasses import dataclass

from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, compute_pair_metrics, compute_reward_margin


@dataclass(frozen=True)
class DiffusionIPO(PairMethod):
    """The method `ipo`. `beta` is that of `dpo`; the paper calls it tau."""

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_ipo(errors, beta)


def diffusion_ipo(errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean of (beta h - 1 / 2)^2 over the pairs, with h = -[(m_w - m_w^ref) - (m_l - m_l^ref)] / 2.

    The paper's loss is (h - 1 / (2 beta))^2. This loss is beta^2 times as large and has the same minimum: for a large
    beta its gradients have the size of DPO's, and don't vanish next to AdamW's epsilon.

    The loss is a float32 scalar of at least 0, 1/4 for an untrained network; the metrics are `compute_pair_metrics`.
    """
    reward_margin_P = compute_reward_margin(errors, beta)
    loss = (reward_margin_P - 0.5).square().mean()
    return loss, compute_pair_metrics(loss, reward_margin_P, errors)
