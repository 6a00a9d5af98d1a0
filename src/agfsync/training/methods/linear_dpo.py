"""Linear-DPO (arXiv:2605.21123): DPO's loss with the sigmoid in its gradient replaced by a clipped line."""

from dataclasses import dataclass

from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, compute_pair_metrics, compute_reward_margin


@dataclass(frozen=True)
class LinearDPO(PairMethod):
    """The method `linear-dpo`. The gradient of each pair has a weight in `floor`..1 - `floor`.

    The authors use beta 100 and floor 1e-3 for Stable Diffusion 1.5, 500 and 0 for SDXL, 5000 and 0.05 for Stable
    Diffusion 3. Their reference is a moving average of the network; here it is the base.
    """

    beta: float = 100.0
    floor: float = 1e-3

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        reward_margin_P = compute_reward_margin(errors, beta)
        weight_P = compute_linear_weight(reward_margin_P.detach(), self.floor)
        loss = (weight_P * (errors.winner_P - errors.loser_P)).mean()
        return loss, compute_pair_metrics(loss, reward_margin_P, errors)


def compute_linear_weight(reward_margin_P: Tensor, floor: float) -> Tensor:
    """Return clip(0.5 + 0.2 beta [(m_w - m_l) - (m_w^ref - m_l^ref)], floor, 1 - floor), float32 (P,).

    `reward_margin_P` is -beta / 2 times the bracket, so that the slope with respect to it is -0.4.
    """
    return (0.5 - 0.4 * reward_margin_P).clamp(floor, 1 - floor)
