"""The state of a training: weights, optimizer, loss scale, and the average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from agfsync.engine.packages import require_package

Parameters = Mapping[str, nn.Parameter]


class Average:
    """An exponential moving average of the weights, which smooths out the noise of single steps.

    a <- d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)) after t steps. At first the average follows the weights
    closely, so that it doesn't keep the initial weights in a short training (as in TensorFlow's
    ExponentialMovingAverage).
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Parameters, step: int) -> None:
        """Update the average with the weights after `step` steps, 1 for the first."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.weights.items():
            weight.lerp_(parameters[name].detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Parameters) -> None:
        """Copy the average into `parameters`."""
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)


@dataclass(slots=True)
class TrainingState:
    """The values that a step changes. `parameters` are the trained parameters, float32, by their names in the network.

    `parts` is the smallest number of parts into which a batch must be split to fit into memory.
    """

    parameters: Parameters
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None = None
    parts: int = 1
    updates: int = 0
    """the number of updates of the weights, including those that were skipped because fp16 overflowed"""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """the values that the objective carries from step to step"""

    @property
    def is_sharded(self) -> bool:
        """True if each process has only its part of each tensor."""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters.values())

    @classmethod
    def create(
        cls,
        network: nn.Module,
        optimizer: str,
        weight_decay: float,
        scaler: torch.amp.GradScaler,
        ema: float | None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> Self:
        """Return the state of `network` before the first step. `ema` is the decay of the average; None: no average.

        Raises:
            RecipeError: the optimizer's package is not installed.
        """
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        average = None if ema is None else Average(parameters, ema)
        return cls(parameters, make_optimizer(optimizer, parameters, weight_decay, betas), scaler, average)


def make_optimizer(
    name: str, parameters: Parameters, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Return AdamW: torch's ("adamw"), or bitsandbytes' with 8-bit moments ("adamw8bit", Dettmers et al. 2021).

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters.values(), weight_decay=weight_decay, betas=betas, fused=True)
    require_package("bitsandbytes", "training.optimizer adamw8bit")
    from bitsandbytes.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(list(parameters.values()), weight_decay=weight_decay, betas=betas)
    return optimizer


@contextmanager
def use_result(state: TrainingState) -> Iterator[Mapping[str, Tensor]]:
    """Yield the current result of the training, which the network has as its weights within the context.

    The result is the average of the weights if there is one. Afterwards the network is restored to the last bit.
    """
    if state.average is None:
        yield state.parameters
        return
    before = {name: parameter.detach().clone() for name, parameter in state.parameters.items()}
    state.average.copy_to(state.parameters)
    try:
        yield state.parameters
    finally:
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                parameter.copy_(before[name])
