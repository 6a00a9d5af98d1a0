"""The protocol between the training loop and a method: the batches of a step, and the loss on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from agfsync.errors import RecipeError
from agfsync.models.schedules import LossSpace
from agfsync.training import Reference, TrainableModel
from agfsync.training.processes import ALONE, Processes

Metrics = Mapping[str, Tensor]
"""Name -> the mean over the rows of a batch, a scalar."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The settings of a training. `batch` is in items, `warmup` and `checkpoint_every` in steps.

    The items of a step go through the networks in `accumulate` parts, one after the other, which changes only the last
    bits of the result; several processes share the parts. `ema` is the decay of the average of the weights. The loss
    takes the errors of the quantity `loss_space`: the network's prediction, or the noise. `noise` is the noise that is
    added to an image: new in each step ("independent"), or the noise that the image was drawn from ("tracked"). With
    `fsdp`, each process keeps only its part of the weights and of the optimizer's state.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    checkpoint_every: int = 50
    accumulate: int = 1
    gradient_checkpointing: bool = False
    fsdp: bool = False
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    ema: float | None = None
    min_snr_gamma: float | None = None
    caption_dropout: float = 0.0
    loss_space: LossSpace = "model"
    noise: Literal["independent", "tracked"] = "independent"


@dataclass(frozen=True, slots=True)
class Actor:
    """The trained model, as an objective uses it; `reference` is the base, for methods that compare with it.

    `processes` share each step.
    """

    model: TrainableModel
    reference: Reference | None = None
    precision: str = "fp32"
    processes: Processes = ALONE

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.model.device

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.model.network


class Batch(Protocol):
    """The rows of one optimizer step."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def part(self, rows: Tensor, device: torch.device) -> Self:
        """Return the batch of the rows at `rows`, int64 positions, with its tensors on `device`."""
        ...


class Objective(Protocol):
    """The work of a method in each step. The loss must be a mean over rows, so that the loop can split a batch."""

    def __len__(self) -> int:
        """Return the number of items in an epoch: pairs, images or prompts."""
        ...

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[Any]:
        """Return the batches of step `step`; the loop takes one optimizer step on each, in order.

        No gradient is recorded. The result depends only on the weights, the objective's memory, the plan's seed and
        `step`, so that a resume is exact. The number of batches is the same in every process and step.

        Args:
            rows: this process's share of the step's items, int64 positions in 0..plan.batch - 1.
        """
        ...

    def loss(self, actor: Actor, batch: Any) -> tuple[Tensor, Metrics]:
        """Return the loss on a `Batch`, a scalar, and the metrics to log, which include "loss"."""
        ...


@runtime_checkable
class RememberingObjective(Objective, Protocol):
    """An objective that carries values from step to step, such as an average or a second network."""

    memory: dict[str, Tensor]
    """the values; their names and shapes never change. Checkpoints contain them, and a resume restores them in place"""

    def prepare(self, actor: Actor) -> None:
        """Create the part of the memory that depends on the model, before a checkpoint is restored."""
        ...

    def observe(self, figures: Mapping[str, float]) -> None:
        """Update the memory after an optimizer step, from its metrics over the rows of all processes."""
        ...


class Method(Protocol):
    """An alignment method of the catalog; its fields are its settings in the recipe's `training.method`."""

    needs: Literal["pairs", "scores", "captions", "nothing"]
    """the table that it learns from"""
    trains: Literal["model", "reward", "nothing"]
    uses_reference: bool
    """True if its loss compares the network with the base"""
    curves: Sequence[str]
    """the metrics in the progress, the notes and the report; the progress bar shows the first two"""

    def objective(self, data: Any, plan: TrainingPlan) -> Objective:
        """Return the objective on `data`, such as `EncodedPairs` for a method that needs pairs."""
        ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """The method `none`: the run ends at the pairs."""

    needs: ClassVar = "pairs"
    trains: ClassVar = "nothing"
    uses_reference: ClassVar = False
    curves: ClassVar[Sequence[str]] = ()

    def objective(self, data: Any, plan: TrainingPlan) -> Objective:
        """Raise RecipeError: there is nothing to train."""
        raise RecipeError("training.method none trains nothing: name a method")


@dataclass(frozen=True, slots=True)
class Given:
    """The method `given`: another model takes the place of the aligned model."""

    model: Mapping[str, Any]
    names: Sequence[str] = ("base", "other")
    marks: Sequence[str] = ("", "")
    selected_on: Sequence[str] | None = ()
    needs: ClassVar = "nothing"
    trains: ClassVar = "nothing"
    uses_reference: ClassVar = False
    curves: ClassVar[Sequence[str]] = ()

    def objective(self, data: Any, plan: TrainingPlan) -> Objective:
        """Raise RecipeError: there is nothing to train."""
        raise RecipeError("training.method given trains nothing: it compares two models")
