"""Outcomes on their way into the run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from agfsync.engine.work import Outcome, Sifted, Skip
from agfsync.records import Record
from agfsync.store import Run

PART_BYTES = 32 << 20
PART_SECONDS = 60.0
"""A part is committed when it has grown to this size or age: what a kill can cost."""


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
        if isinstance(outcome, Skip):
            self.run.skip(self.stage, key, outcome.reason, outcome.where)
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
    """About how many bytes a record takes while it waits: all but images take as much, and more than in the file."""
    return 1000 + len(getattr(record, "image", b""))
