"""Diffusion-KTO (Li et al. 2024, arXiv:2404.04465): images are liked or disliked one by one, without pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from agfsync.choices import CandidateScores
from agfsync.training.methods.best import sum_rewards
from agfsync.training.methods.pairs import compute_implicit_accuracy
from agfsync.training.methods.rated import RatedErrors, RatedMethod, Ratings
from agfsync.training.objective import Metrics


@dataclass(frozen=True)
class DiffusionKTO(RatedMethod):
    """The method `kto`: scored candidates above their caption's mean reward are liked, those below it are disliked.

    `liked_weight` and `disliked_weight` are their weights in the loss.
    """

    reward: Mapping[str, float]
    beta: float = 1000.0
    liked_weight: float = 1.0
    disliked_weight: float = 1.0

    uses_reference: ClassVar[bool] = True
    curves: ClassVar[Sequence[str]] = ("loss", "implicit_accuracy", "liked_error_change", "disliked_error_change")

    def rate(self, values: Mapping[str, CandidateScores]) -> Ratings:
        sums = sum_rewards(values, self.reward)
        mean = fmean(sums.values()) if sums else 0.0
        signs = {key: (total > mean) - (total < mean) for key, total in sums.items()}
        return {key: float(sign) for key, sign in signs.items() if sign}

    def compute_loss(self, errors: RatedErrors) -> tuple[Tensor, Metrics]:
        if errors.reference_B is None or errors.reference_point is None:
            raise ValueError("kto needs a reference")
        gain_B, liked_B = errors.reference_B - errors.error_B, errors.rating_B > 0
        loss = diffusion_kto(
            gain_B, liked_B, errors.reference_point, self.beta, self.liked_weight, self.disliked_weight
        )
        changes = {"liked": liked_B, "disliked": ~liked_B}
        return loss, {
            "loss": loss.detach(),
            "implicit_accuracy": compute_implicit_accuracy((errors.rating_B.sign() * gain_B).detach()),
            # A part may have no liked or no disliked images: the mean is over all images, so that the parts add up.
            **{f"{name}_error_change": -(gain_B * of_B).detach().mean() for name, of_B in changes.items()},
        }


def diffusion_kto(
    gain_B: Tensor,
    liked_B: Tensor,
    reference_point: float,
    beta: float,
    liked_weight: float = 1.0,
    disliked_weight: float = 1.0,
) -> Tensor:
    """Return the mean of w (1 - sigmoid(+-beta (g - z))) over the images, with + for liked ones: a float32 scalar.

    Args:
        gain_B: g = m^ref - m, float32 (B,), the reference's error of each image minus the network's.
        reference_point: z = max(0, mean of g) over the whole step.
    """
    sign_B = torch.where(liked_B, 1.0, -1.0)
    weight_B = torch.where(liked_B, liked_weight, disliked_weight)
    return (weight_B * (1 - (sign_B * beta * (gain_B - reference_point)).sigmoid())).mean()
