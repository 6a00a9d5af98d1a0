"""Runs a stage's work in this process: what isn't done yet, in batches, committed part by part."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pyarrow as pa

from agfsync.errors import BudgetError
from agfsync.progress import Progress
from agfsync.records import Record
from agfsync.store import Run

P = TypeVar("P")

PART_BYTES = 32 << 20
PART_SECONDS = 60.0
"""A part is committed when it has grown to this size or age: what a kill can cost."""


@dataclass(frozen=True, slots=True)
class Unit(Generic[P]):
    """A piece of work. The key names all that shapes its rows, so that work that is done is found again."""

    key: str
    payload: P


@dataclass(frozen=True, slots=True)
class Failure:
    """A unit that can't be done, because of `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Sifted:
    """What a unit made, and what it left out, counted by reason."""

    records: Sequence[Record]
    dropped: Mapping[str, int]


Outcome = Sequence[Record] | Sifted | Failure


def process(
    run: Run,
    stage: str,
    units: Sequence[Unit[P]],
    work: Callable[[Sequence[P]], Iterable[Outcome]],
    *,
    batch: int,
    schema: pa.Schema,
    progress: Progress,
    budget: float,
    unit: str = "captions",
    title: str | None = None,
    part_bytes: int = PART_BYTES,
    part_seconds: float = PART_SECONDS,
) -> None:
    """Do the units that aren't done, `batch` at a time; `work` gives one outcome for each payload, in order.

    Stopped in whatever way that Python notices, be it by an error in `work` after some outcomes, what is complete is
    committed first. A unit that fails is quarantined.

    Raises:
        BudgetError: more than the share `budget` of the units failed.
    """
    done = run.done(stage)
    missing = [each for each in units if each.key not in done]
    if not missing:
        return
    part = Part(run, stage, schema, part_bytes, part_seconds)
    with progress.stage(title or stage, len(units), unit, len(units) - len(missing)) as task:
        try:
            for start in range(0, len(missing), batch):
                chunk = missing[start : start + batch]
                outcomes = work([each.payload for each in chunk])
                for each, outcome in zip(chunk, outcomes, strict=True):
                    part.add(each.key, outcome)
                check_budget(run, stage, len(units), budget, unit)
                task.advance(len(chunk))
        finally:
            part.commit()


def check_budget(run: Run, stage: str, total: int, budget: float, unit: str = "captions") -> None:
    """Stop when more than the share `budget` of `total` units is in quarantine.

    Raises:
        BudgetError: says how many, and the reason met most often.
    """
    failures = run.failures(stage)
    if len(failures) > budget * total:
        raise over_budget(stage, Counter(failures.values()), total, budget, unit)


def over_budget(stage: str, reasons: Counter[str], total: int, budget: float, unit: str) -> BudgetError:
    """The error for `reasons` of failure, counted, among `total` units."""
    reason, _ = reasons.most_common(1)[0]
    return BudgetError(
        f"{stage}: {reasons.total()} of {total} {unit} failed, failure_budget is {budget:g}; most often: {reason}."
        f" Mend that, or give a larger --set failure_budget"
    )


@dataclass
class Part:
    """Outcomes on their way to one Parquet part, committed whenever it has grown to its limits."""

    run: Run
    stage: str
    schema: pa.Schema
    limit_bytes: int = PART_BYTES
    limit_seconds: float = PART_SECONDS
    outcomes: dict[str, Sequence[Record]] = field(default_factory=dict)
    dropped: dict[str, Mapping[str, int]] = field(default_factory=dict)
    size: int = 0
    begun: float = field(default_factory=time.monotonic)

    def add(self, key: str, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self.run.quarantine(self.stage, key, outcome.reason)
            return
        records = outcome.records if isinstance(outcome, Sifted) else outcome
        if isinstance(outcome, Sifted):
            self.dropped[key] = outcome.dropped
        self.outcomes[key] = records
        self.size += sum(_weight(record) for record in records)
        if self.size >= self.limit_bytes or time.monotonic() - self.begun >= self.limit_seconds:
            self.commit()

    def commit(self) -> None:
        seconds = time.monotonic() - self.begun
        outcomes, self.outcomes = self.outcomes, {}
        dropped, self.dropped = self.dropped, {}
        self.size, self.begun = 0, time.monotonic()
        if outcomes:
            self.run.commit(self.stage, outcomes, self.schema, dropped=dropped, seconds=seconds)


def _weight(record: Record) -> int:
    """About how many bytes a record takes; all but images are small."""
    return 200 + len(getattr(record, "image", b""))
