"""A worker, which runs inside a process of any pool: it opens a job once, does its tasks, and writes the parts.

A worker never writes to the manifest. It writes each task's rows as a part into the run folder and returns the part's
entry; only the leading process adds it to the manifest.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.engine.batch_fitting import BatchFit
from agfsync.engine.jobs import Job, JobContext, Outcome, Sifted, Skip, Unit
from agfsync.errors import AgfsyncError
from agfsync.store import Run, parts
from agfsync.store.parts import PartEntry


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The arguments of a worker. `fit` is the batch size that is known to fit into memory.

    `folder` is the working directory of the leading process, so that relative paths of models mean the same.
    """

    run: Path
    schema: pa.Schema
    job: Job[Any]
    at_once: int
    fit: int
    folder: Path


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of a task: the entry of its part, the number of rows of each unit in it, and the skipped units.

    `stopped` is the error that ended the task early; the outcomes before it are in the result.
    """

    part: PartEntry | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    skips: Mapping[str, Skip] = field(default_factory=dict)
    seconds: float = 0.0
    fit: int | None = None
    stopped: Exception | None = None


class JobWorker:
    """A worker of a job. Methods don't raise: the result holds the error. A worker that doesn't answer is dead."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._fit = BatchFit(plan.fit)

    def open(self) -> TaskResult:
        """Load the model."""
        try:
            if self._plan.folder.is_dir():
                os.chdir(self._plan.folder)
            self._run = Run.open(self._plan.run)
            self._work: Callable[[Sequence[Any]], Iterable[Outcome]] = self._plan.job.open(
                JobContext(self._run, self._fit, lambda _: None)
            )
        except Exception as failure:
            return TaskResult(stopped=_make_sendable(failure))
        return TaskResult()

    def do(self, path: str, units: Sequence[Unit[Any]]) -> TaskResult:
        """Do `units` and write their rows as the part `path` of the run folder."""
        begun, outcomes, stopped = time.monotonic(), dict[str, Outcome](), None
        try:
            for start in range(0, len(units), self._plan.at_once):
                batch = units[start : start + self._plan.at_once]
                for unit, outcome in zip(batch, self._work([item.payload for item in batch]), strict=True):
                    outcomes[unit.key] = outcome
        except Exception as failure:
            stopped = _make_sendable(failure)
        try:
            return self._write_part(path, outcomes, time.monotonic() - begun, stopped)
        except Exception as failure:
            return TaskResult(stopped=_make_sendable(failure))

    def _write_part(
        self, path: str, outcomes: Mapping[str, Outcome], seconds: float, stopped: Exception | None
    ) -> TaskResult:
        records_of = {
            key: outcome.records if isinstance(outcome, Sifted) else outcome
            for key, outcome in outcomes.items()
            if not isinstance(outcome, Skip)
        }
        rows = [record.row() for records in records_of.values() for record in records]
        return TaskResult(
            part=parts.write_part(self._plan.run, path, rows, self._plan.schema) if rows else None,
            units={key: len(records) for key, records in records_of.items()},
            dropped={key: outcome.dropped for key, outcome in outcomes.items() if isinstance(outcome, Sifted)},
            skips={key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Skip)},
            seconds=seconds,
            fit=self._fit.size,
            stopped=stopped,
        )


def _make_sendable(failure: Exception) -> Exception:
    """Return `failure` in a form that any process can unpickle: our errors and Python's unchanged, others as text."""
    known = isinstance(failure, AgfsyncError) or type(failure).__module__ == "builtins"
    plain = known and all(isinstance(part, str | bytes | int | float | None) for part in failure.args)
    sent = failure if plain else RuntimeError(f"{type(failure).__name__}: {failure}")
    sent.add_note("in a worker:\n" + "".join(traceback.format_exception(failure)))
    return sent
