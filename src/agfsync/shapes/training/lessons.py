"""The lessons that train the Shapes models: objectives of the training loop, each with its plan."""

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.files.tensors import read_metadata
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.objective import Actor, Metrics, TrainingPlan

plan_lesson = partial(
    TrainingPlan, seed=0, schedule="linear", warmup=100, betas=(0.9, 0.99), ema=0.998, checkpoint_every=100
)
"""Makes a plan from `steps`, `batch`, `learning_rate` and any other deviation from the lessons' defaults."""


class WholeBatch:
    """A batch that counts as one row, since a loss that compares its images with each other isn't a mean over them."""

    def __len__(self) -> int:
        return 1

    def part(self, rows: Tensor, device: torch.device) -> Self:
        """Return the whole batch; `collect` has already moved it to the device."""
        return self


@dataclass(frozen=True)
class Lesson(ABC):
    """An objective with its plan. All randomness of a step depends on the name, the plan's seed and the step only."""

    name: str
    plan: TrainingPlan

    def __len__(self) -> int:
        return self.plan.batch * self.plan.steps

    @abstractmethod
    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[Any]:
        """Return the only batch of the step, a `WholeBatch`; `rows` aren't used."""

    @abstractmethod
    def loss(self, actor: Actor, batch: Any) -> tuple[Tensor, Metrics]:
        """Return the scalar to minimise, and the metrics to log, "loss" among them."""

    def choose_parameters(self, network: nn.Module) -> None:
        """Freeze the parameters that aren't trained; by default none."""
        network.requires_grad_(True)

    def seed_step(self, step: int) -> random.Random:
        """Seed torch's global generator, for dropout and noise, and return a generator for the step."""
        torch.manual_seed(self.plan.seed * 1_000_003 + step)
        return random.Random(f"{self.name}/{self.plan.seed}/{step}")

    def find_checkpoints(self, folder: Path) -> Checkpoints:
        """Return the lesson's checkpoints, in a folder of its name in `folder`.

        Raises:
            ModelError: the checkpoints are of another plan.
        """
        decisive = {name: value for name, value in asdict(self.plan).items() if name != "checkpoint_every"}
        checkpoints = Checkpoints(folder / self.name, json.dumps(decisive))
        heads = [read_metadata(path) for path in checkpoints.folder.glob("*.safetensors")]
        if any(head and head.get("digest") != checkpoints.digest for head in heads):
            raise ModelError(f"{checkpoints.folder} was made by another plan of training: remove it to begin again")
        return checkpoints


@dataclass(frozen=True, slots=True)
class Pupil:
    """A model in training: its network, its lessons in order, and the function that writes its files afterwards."""

    network: nn.Module
    lessons: Sequence[Lesson]
    save: Callable[[Path], None]

    @property
    def device(self) -> torch.device:
        """The accelerator if there is one, else the CPU."""
        return training_device()


def teach(pupil: Pupil, folder: Path, report: Callable[[Mapping[str, float]], None]) -> None:
    """Train a pupil on its lessons, from the last checkpoint in `folder`; it ends with averaged weights.

    `report` is called with each step's metrics.

    Raises:
        DivergedError: a loss isn't finite. ModelError: the checkpoints are of another plan.
    """
    actor = Actor(pupil, precision="bf16" if has_fast_bf16() else "fp32")

    def on_step(line: Mapping[str, float]) -> None:
        hidden = ("step", "gradient_norm", "learning_rate", "seconds")
        report({name: value for name, value in line.items() if name not in hidden})

    for lesson in pupil.lessons:
        checkpoints = lesson.find_checkpoints(folder)
        lesson.choose_parameters(pupil.network)
        pupil.network.train()
        train(actor, lesson, lesson.plan, checkpoints, checkpoints.folder / "metrics.jsonl", on_step)
    pupil.network.eval()


def training_device() -> torch.device:
    """Return the device to train on: the accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bf16() -> bool:
    """Return True if there is an accelerator, or if the CPU has instructions for bf16 (AVX512-BF16 or AMX).

    Small networks are four times as fast in bf16 as in fp32 with these instructions, and 20 times slower without them.
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_amx_tile_supported")
    fast = (getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
    return training_device().type != "cpu" or any(fast)
