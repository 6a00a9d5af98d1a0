"""The margin by which a network prefers winners, which the methods `dpo`, `ipo` and `hinge` hold against a loss each.

Pure functions. Diffusion models have no likelihood at hand; Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908)
bounds it, and the log-ratio of an image under the trained network and the reference becomes -(m - m^ref) / 2 times
a weight that is part of beta.
"""

import torch
from torch import Tensor

from agfsync.training import PairErrors


def reward_margin(errors: PairErrors, beta: float) -> Tensor:
    """-(beta / 2) [(m_w - m_w^ref) - (m_l - m_l^ref)], float32 (P,): above 0 where the winner is preferred."""
    winner_change_P = errors.winner_P - errors.winner_reference_P
    loser_change_P = errors.loser_P - errors.loser_reference_P
    return -(beta / 2) * (winner_change_P - loser_change_P)


def figures(loss: Tensor, reward_margin_P: Tensor, errors: PairErrors) -> dict[str, Tensor]:
    """What a method logs beside its loss, all means over the pairs.

    The share of pairs whose margin has the right sign (a tie is one half, so that an untrained network starts at 0.5)
    and the change of the winner's and of the loser's error, apart because the margin can grow while both get worse.
    """
    return {
        "loss": loss.detach(),
        "implicit_accuracy": implicit_accuracy(reward_margin_P.detach()),
        "winner_error_change": (errors.winner_P - errors.winner_reference_P).detach().mean(),
        "loser_error_change": (errors.loser_P - errors.loser_reference_P).detach().mean(),
    }


def implicit_accuracy(reward_margin_P: Tensor) -> Tensor:
    """The share of margins above 0, ties counting one half."""
    return (torch.sign(reward_margin_P) + 1).mean() / 2
