"""Diffusion-SDPO (arXiv:2511.03317): DPO in which the loser's gradient can't raise the winner's error."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agfsync.training.methods.dpo import diffusion_dpo
from agfsync.training.methods.pairs import PairErrors, PairMethod


@dataclass(frozen=True)
class DiffusionSDPO(PairMethod):
    """The method `sdpo`: DPO with a limit on the loser's gradient that depends on `mu`, in 0..1.

    The authors use beta 5000, with mu 0.9 for Stable Diffusion 1.5 and 0.6 for SDXL.
    """

    mu: float = 0.9

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_dpo(limit_loser_gradient(errors, self.mu), beta)


def limit_loser_gradient(errors: PairErrors, mu: float) -> PairErrors:
    """Return the same errors, with the gradient of each loser's error multiplied by `compute_loser_factor`."""
    if errors.product_P is None:
        raise ValueError("these errors have no product")
    factor_P = compute_loser_factor(errors.winner_P.detach(), errors.product_P, mu)
    fixed_P = errors.loser_P.detach()
    return replace(errors, loser_P=fixed_P + factor_P * (errors.loser_P - fixed_P))


def compute_loser_factor(winner_P: Tensor, product_P: Tensor, mu: float) -> Tensor:
    """Return min(1, (1 - mu) |e_w|^2 / <e_w, e_l>) where the product is above 0, else 1: float32 (P,) in 0..1.

    e_w and e_l are the elementwise errors of the winner's and the loser's prediction. A step along the negative
    gradient changes the predictions by about -e_w and +e_l times this factor, so that the winner's error doesn't rise
    to first order. The published code has one factor per micro-batch. Here each pair has its own, so that the split of
    a batch doesn't affect the result.
    """
    limit_P = (1 - mu) * winner_P / product_P.clamp(min=torch.finfo(product_P.dtype).tiny)
    return torch.where(product_P > 0, limit_P.clamp(max=1), torch.ones_like(product_P))
