"""The best weights of a watched training, saved next to its checkpoints."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agfsync.errors import StoreError
from agfsync.files.atomic import store_errors, write_atomic
from agfsync.files.tensors import read_metadata, read_tensors, write_tensors
from agfsync.training.state import Parameters

VALUES, PARAMETER = "values_N", "weight."
"""The name of the values in a file, and the prefix of the names of the weights."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A judge's scores of the held-out captions after `step` steps, float64 (N,); NaN where the judge gave no score."""

    step: int
    values_N: Tensor

    @property
    def mean(self) -> float:
        """The mean over the captions with a score; NaN if none has one."""
        return float(self.values_N.nanmean())


@dataclass(frozen=True, slots=True)
class BestWeights:
    """The weights of the best measured steps of the training `digest`, one file per step in `folder`.

    A file is kept until no checkpoint is older than the next better step, so that a training that resumes from any
    checkpoint finds the best weights up to that step.
    """

    folder: Path
    digest: str

    def save(self, measured: Measured, weights: Mapping[str, Tensor]) -> None:
        """Write the weights and scores of a step.

        Raises:
            StoreError: the disk fails.
        """
        tensors = {f"{PARAMETER}{name}": weight.detach() for name, weight in weights.items()}
        head = {"digest": self.digest, "step": str(measured.step)}
        write_tensors(self._make_path(measured.step), {VALUES: measured.values_N, **tensors}, head)

    def find(self, done: int) -> Measured | None:
        """Return the best measurement of the first `done` steps; delete the files of later steps and other trainings.

        Raises:
            StoreError: the file is damaged.
        """
        ours = {step: path for step, path in self._list_files() if step <= done}
        self._delete_but(ours.values())
        return Measured(max(ours), self._read(max(ours))[VALUES]) if ours else None

    def prune(self, steps: Collection[int]) -> None:
        """Delete the files that a training resumed from one of `steps` doesn't need; without steps, delete all."""
        older = sorted((step for step, _ in self._list_files() if step <= min(steps, default=step)), reverse=True)
        for step in older[1:] if steps else older:
            self._make_path(step).unlink()

    def end(self, best: int, step: int) -> None:
        """Record that the training has ended at `step` with the weights of the step `best`."""
        noted = {"digest": self.digest, "best": best, "step": step}
        write_atomic(self._end_file, json.dumps(noted).encode())

    def find_end(self) -> tuple[int, int] | None:
        """Return the step with the resulting weights and the step at which the training ended; None if it hasn't."""
        try:
            noted = json.loads(self._end_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # The training resumes from its last checkpoint, and records its end again.
        return (noted["best"], noted["step"]) if noted["digest"] == self.digest else None

    @torch.no_grad()
    def load(self, step: int, parameters: Parameters) -> None:
        """Copy the weights of `step` into `parameters`.

        Raises:
            StoreError: the file is damaged.
        """
        tensors = self._read(step)
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{PARAMETER}{name}"])

    def _read(self, step: int) -> Mapping[str, Tensor]:
        found = read_tensors(self._make_path(step))
        if found is None:
            raise StoreError(
                f"{self._make_path(step)} is damaged or gone: delete {self.folder.parent}, then type the same command "
                f"again to train from the start"
            )
        return found.tensors

    def _delete_but(self, kept: Collection[Path]) -> None:
        with store_errors(self.folder):
            for path in self.folder.glob("*"):
                if path not in kept:
                    path.unlink()

    def _list_files(self) -> list[tuple[int, Path]]:
        headed = [(read_metadata(path), path) for path in self.folder.glob("*.safetensors")]
        return [(int(head["step"]), path) for head, path in headed if head and head.get("digest") == self.digest]

    def _make_path(self, step: int) -> Path:
        return self.folder / f"step-{step:07}.safetensors"

    @property
    def _end_file(self) -> Path:
        return self.folder / "end.json"
