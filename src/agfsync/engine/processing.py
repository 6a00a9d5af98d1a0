"""The work of a stage in this process: the missing units, in batches, written part by part."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

import pyarrow as pa

from agfsync.engine.jobs import Outcome, Sifted, Skip, Undone, Unit
from agfsync.engine.progress import Progress
from agfsync.errors import BudgetError
from agfsync.records import Record
from agfsync.store import Run
from agfsync.store.manifest import Skipped
from agfsync.store.streams import Reiterable, iterate_batches

_P = TypeVar("_P")

PART_BYTES = 32 << 20
PART_SECONDS = 60.0
"""The size and age at which a part is committed: at most this much work is lost when the process is killed."""
LOOKED_UP = 500
"""The number of units looked up in the manifest at a time, which bounds the units in memory."""


def process_units(
    run: Run,
    stage: str,
    units: "Reiterable[Unit[_P]] | PendingUnits[_P]",
    work: Callable[[Sequence[_P]], Iterable[Outcome | Undone]],
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
    """Do the units that aren't done, `batch` at a time; `work` returns one outcome for each payload, in order.

    Complete outcomes are always committed before this returns or raises, even if `work` raises after some of them. A
    unit that can't be done is entered as skipped.

    Raises:
        BudgetError: more than the share `budget` of the units is skipped.
        Exception: the cause of the first `Undone` of a batch, after the batch's other outcomes are committed.
    """
    pending = units if isinstance(units, PendingUnits) else PendingUnits(run, stage, units)
    if not pending.count_ahead(1):
        return
    part = PartWriter(run, stage, schema, part_bytes, part_seconds)
    with progress.stage(title or stage, pending.total, unit, pending.pop_found_count()) as task:
        try:
            while chunk := pending.take(batch):
                task.add_done(pending.pop_found_count())
                outcomes = work([item.payload for item in chunk])
                causes: list[Exception] = []
                for item, outcome in zip(chunk, outcomes, strict=True):
                    if isinstance(outcome, Undone):
                        causes.append(outcome.cause)
                    else:
                        part.add(item.key, outcome)
                if causes:
                    raise causes[0]
                check_budget(stage, run.list_skipped(stage, own=True), pending.total, budget, unit)
                task.advance(len(chunk))
            task.add_done(pending.pop_found_count())
        finally:
            part.commit()


class PendingUnits(Generic[_P]):
    """The `units` that the run's `table` lacks, in order, looked up as they are taken; `total` counts all units."""

    def __init__(self, run: Run, table: str, units: Reiterable[Unit[_P]]) -> None:
        self._run, self._table = run, table
        self._batches = iterate_batches(units, LOOKED_UP)
        self._ready = deque[Unit[_P]]()
        self._unseen = self.total = len(units)
        self._found = 0

    def take(self, most: int) -> list[Unit[_P]]:
        """Return and remove the next units: `most`, or all that are left."""
        return [self._ready.popleft() for _ in range(self.count_ahead(most))]

    def count_ahead(self, most: int) -> int:
        """Return the number of units that are left, counted up to `most`."""
        while len(self._ready) < most and (batch := next(self._batches, None)):
            self._unseen -= len(batch)
            done = self._run.find_done(self._table, [unit.key for unit in batch])
            self._ready += [unit for unit in batch if unit.key not in done]
            self._found += len(done)
        return min(len(self._ready), most)

    def count_batches(self, size: int, most: int) -> int:
        """Return the number of batches of `size` that are left, counted up to `most`."""
        return ceil(self.count_ahead(most * size) / size)

    @property
    def bound(self) -> int:
        """An upper bound of the number of units that are left: those not yet looked up count as missing."""
        return len(self._ready) + self._unseen

    def pop_found_count(self) -> int:
        """Return the number of units found finished since the last call."""
        found, self._found = self._found, 0
        return found


@dataclass
class PartWriter:
    """A buffer of outcomes for one Parquet part, which is committed when it reaches its limits."""

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
        """Add the outcome of the unit `key`; one that is skipped is entered at once."""
        if isinstance(outcome, Skip):
            self.run.skip(self.stage, key, outcome.reason, outcome.where)
            return
        records = outcome.records if isinstance(outcome, Sifted) else outcome
        if isinstance(outcome, Sifted):
            self.dropped[key] = outcome.dropped
        self.outcomes[key] = records
        # An estimate of the memory: a record without its image takes about 1000 bytes, and less in the file.
        self.size += sum(1000 + len(getattr(record, "image", b"")) for record in records)
        if self.size >= self.limit_bytes or time.monotonic() - self.begun >= self.limit_seconds:
            self.commit()

    def commit(self) -> None:
        """Write the outcomes that were added since the last commit."""
        seconds = time.monotonic() - self.begun
        outcomes, self.outcomes = self.outcomes, {}
        dropped, self.dropped = self.dropped, {}
        self.size, self.begun = 0, time.monotonic()
        if outcomes:
            self.run.commit(self.stage, outcomes, self.schema, dropped=dropped, seconds=seconds)


def check_budget(stage: str, skipped: Sequence[Skipped], total: int, budget: float, unit: str = "captions") -> None:
    """Check that at most the share `budget` of `total` units is skipped.

    Raises:
        BudgetError: more are skipped; the message has their number, the most frequent reason, and its first occurrence.
    """
    if sum(entry.count for entry in skipped) > budget * total:
        raise BudgetError(
            f"{_describe_skipped(stage, skipped, total, unit)}; failure_budget is {budget:g}: fix the cause, or"
            f" raise it by --set failure_budget"
        )


def report_skipped(
    progress: Progress, stage: str, skipped: Sequence[Skipped], total: int, unit: str = "captions"
) -> None:
    """Report in one line the number of skipped units of `total` and the main reason; nothing if none is skipped."""
    if skipped:
        progress.say(_describe_skipped(stage, skipped, total, unit))


def _describe_skipped(stage: str, skipped: Sequence[Skipped], total: int, unit: str) -> str:
    reasons: Counter[str] = Counter()
    for entry in skipped:
        reasons[entry.reason] += entry.count
    reason, _ = reasons.most_common(1)[0]
    where = next((entry.where for entry in skipped if entry.reason == reason and entry.where), "")
    others = len(reasons) - 1
    more = f", and {others} other reason{'s' if others > 1 else ''}" if others else ""
    return f"{stage}: {reasons.total()} of {total} {unit} skipped: {reason}{f' ({where})' if where else ''}{more}"
