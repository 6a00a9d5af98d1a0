"""SmPO (arXiv:2506.02698): DPO with soft labels: the beta of a pair grows with the margin of its scores."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from agfsync.training.methods.pairs import PairErrors, PairMethod, compute_pair_metrics, compute_reward_margin


@dataclass(frozen=True)
class SmoothedDPO(PairMethod):
    """The method `smpo`.

    The probability p that the winner is the better image is sigmoid(margin / `temperature`), with the margin of the
    pair's scores in their own units. The beta of a pair is multiplied by 2 p - `gamma`; with `gamma` 1, a coin toss
    has no weight.
    """

    temperature: float = 5.0
    gamma: float = 1.0

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        if errors.margin_P is None:
            raise ValueError("these pairs have no margins")
        certainty_P = 2 * (errors.margin_P / self.temperature).sigmoid() - self.gamma
        reward_margin_P = compute_reward_margin(errors, beta * certainty_P)
        loss = -F.logsigmoid(reward_margin_P).mean()
        return loss, compute_pair_metrics(loss, reward_margin_P, errors)
