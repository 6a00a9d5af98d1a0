"""What goes on inside a worker, whoever has started it: it opens a job once, does tasks, and writes the parts.

A worker never touches the manifest. It writes each task's rows as a part beside the run's others and gives back the
part's receipt; only the process that leads the run enters it.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.engine.fitting import Fit
from agfsync.engine.work import Desk, Job, Outcome, Sifted, Skip, Unit
from agfsync.errors import AgfsyncError
from agfsync.records import Record
from agfsync.store import Run, parts
from agfsync.store.parts import Receipt


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is told when it begins. `fit` is the batch that is known to fit into memory.

    `folder` is where the leading process stands, so that a model's relative path is the same one here.
    """

    run: Path
    schema: pa.Schema
    job: Job[Any]
    at_once: int
    fit: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a task has come to: the receipt of its part, the rows of each unit in it, and the units that are skipped.

    `stopped` is the error that ended the task early; what was complete by then is delivered all the same.
    """

    part: Receipt | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    skips: Mapping[str, Skip] = field(default_factory=dict)
    seconds: float = 0.0
    fit: int | None = None
    stopped: Exception | None = None


class Hand:
    """Does tasks. No method raises: an error is delivered, and a worker that doesn't answer is dead."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._fit = Fit(plan.fit)

    def open(self) -> Delivery:
        """Load the model."""
        try:
            if self._plan.folder.is_dir():
                os.chdir(self._plan.folder)
            self._run = Run.open(self._plan.run)
            self._work: Callable[[Sequence[Any]], Iterable[Outcome]] = self._plan.job.open(
                Desk(self._run, self._fit, lambda _: None)
            )
        except Exception as failure:
            return Delivery(stopped=_sendable(failure))
        return Delivery()

    def do(self, path: str, units: Sequence[Unit[Any]]) -> Delivery:
        """Do `units` and write what they make as the part `path` of the run folder."""
        begun, outcomes, stopped = time.monotonic(), dict[str, Outcome](), None
        try:
            for start in range(0, len(units), self._plan.at_once):
                some = units[start : start + self._plan.at_once]
                for unit, outcome in zip(some, self._work([each.payload for each in some]), strict=True):
                    outcomes[unit.key] = outcome
        except Exception as failure:
            stopped = _sendable(failure)
        try:
            return self._delivered(path, outcomes, time.monotonic() - begun, stopped)
        except Exception as failure:
            return Delivery(stopped=_sendable(failure))

    def _delivered(
        self, path: str, outcomes: Mapping[str, Outcome], seconds: float, stopped: Exception | None
    ) -> Delivery:
        made = {key: _records(outcome) for key, outcome in outcomes.items() if not isinstance(outcome, Skip)}
        rows = [record.row() for records in made.values() for record in records]
        return Delivery(
            part=parts.write(self._plan.run, path, rows, self._plan.schema) if rows else None,
            units={key: len(records) for key, records in made.items()},
            dropped={key: outcome.dropped for key, outcome in outcomes.items() if isinstance(outcome, Sifted)},
            skips={key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Skip)},
            seconds=seconds,
            fit=self._fit.size,
            stopped=stopped,
        )


def _records(outcome: Sequence[Record] | Sifted) -> Sequence[Record]:
    return outcome.records if isinstance(outcome, Sifted) else outcome


def _sendable(failure: Exception) -> Exception:
    """`failure` as another process can read it, whatever that has imported: our own and Python's errors as they are."""
    known = isinstance(failure, AgfsyncError) or type(failure).__module__ == "builtins"
    plain = known and all(isinstance(part, str | bytes | int | float | None) for part in failure.args)
    told = failure if plain else RuntimeError(f"{type(failure).__name__}: {failure}")
    told.add_note("in a worker:\n" + "".join(traceback.format_exception(failure)))
    return told
