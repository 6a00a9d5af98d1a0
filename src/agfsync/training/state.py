"""What training moves: the weights, the optimizer's moments, the loss's scale, and the weights' average."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from agfsync.engine.packages import require_package

Parameters = Mapping[str, nn.Parameter]


class Average:
    """An exponential moving average of the weights, which forgets the noise of single steps.

    a <- d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)) after t steps: at first it follows closely, so that the
    weights from before training don't linger in a short one (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Parameters, step: int) -> None:
        """Takes in the weights after `step` steps, 1 for the first."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.weights.items():
            weight.lerp_(parameters[name].detach(), 1 - decay)

    @torch.no_grad()
    def put(self, parameters: Parameters) -> None:
        """Makes the weights what their average is."""
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)


@dataclass(slots=True)
class TrainingState:
    """All that a step changes. `parameters` are those that are trained, float32, by their names in the network.

    `parts` is into how many a step's pairs had to be split, at the least, for the memory's sake.
    """

    parameters: Parameters
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None = None
    parts: int = 1
    updates: int = 0
    """times that the loop has updated the weights, those included that fp16's overflow left out"""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        optimizer: str,
        weight_decay: float,
        scaler: torch.amp.GradScaler,
        ema: float | None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> Self:
        """That of `network` before the first step.

        Raises:
            RecipeError: the optimizer's package isn't there.
        """
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        average = None if ema is None else Average(parameters, ema)
        return cls(parameters, make_optimizer(optimizer, parameters, weight_decay, betas), scaler, average)


def make_optimizer(
    name: str, parameters: Parameters, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """AdamW: torch's ("adamw"), or bitsandbytes' with moments of 8 bits ("adamw8bit", Dettmers et al. 2021).

    Raises:
        RecipeError: bitsandbytes isn't there.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters.values(), weight_decay=weight_decay, betas=betas, fused=True)
    require_package("bitsandbytes", "training.optimizer adamw8bit")
    from bitsandbytes.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(list(parameters.values()), weight_decay=weight_decay, betas=betas)
    return optimizer
