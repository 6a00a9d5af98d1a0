"""What of a stage's work isn't done."""

from collections import deque
from math import ceil
from typing import Generic, TypeVar

from agfsync.engine.work import Unit
from agfsync.store import Run
from agfsync.store.streams import Many, some_of

P = TypeVar("P")

LOOKED_UP = 500
"""Units that the manifest is asked about at a time; no more are in memory than are asked about and asked for."""


class Missing(Generic[P]):
    """Those of `units` that the run's `table` lacks, in order, looked up as they are taken; `total` are all of them."""

    def __init__(self, run: Run, table: str, units: Many[Unit[P]]) -> None:
        self._run, self._table = run, table
        self._looked_up = some_of(units, LOOKED_UP)
        self._ready = deque[Unit[P]]()
        self._unseen = self.total = len(units)
        self._found = 0

    def take(self, most: int) -> list[Unit[P]]:
        """The next ones: `most`, or what is left."""
        return [self._ready.popleft() for _ in range(self.ahead(most))]

    def ahead(self, most: int) -> int:
        """How many there still are, counted up to `most`."""
        while len(self._ready) < most and (some := next(self._looked_up, None)):
            self._unseen -= len(some)
            there = self._run.done(self._table, [unit.key for unit in some])
            self._ready += [unit for unit in some if unit.key not in there]
            self._found += len(there)
        return min(len(self._ready), most)

    def portions(self, size: int, most: int) -> int:
        """Into how many portions of `size` they fall, counted up to `most`."""
        return ceil(self.ahead(most * size) / size)

    @property
    def bound(self) -> int:
        """How many there still are, at most: what hasn't been looked up is taken to be missing."""
        return len(self._ready) + self._unseen

    def found(self) -> int:
        """How many that are done it has come past since this was last asked."""
        found, self._found = self._found, 0
        return found
