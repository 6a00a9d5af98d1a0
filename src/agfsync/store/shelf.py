"""Parts in memory, so that whoever reads to and fro between some doesn't read them from the disk each time."""

from collections import OrderedDict
from collections.abc import Callable

import pyarrow as pa

MOST, MOST_BYTES = 32, 1 << 30
"""As many generators, or judges, may take turns in a table; of one alone, only the part that is being read is kept."""

Key = tuple[int, tuple[str, ...] | None]
"""A part's number, and which of its columns."""


class Shelf:
    """The parts that were asked for last, without those that were read to their end before the newest."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Key, pa.Table] = OrderedDict()
        self._ended: set[Key] = set()

    def get(self, key: Key, load: Callable[[], pa.Table]) -> pa.Table:
        """The table, loaded if it isn't here."""
        self._ended.discard(key)
        if key not in self._tables:
            # Whoever reads a table from end to end has done with a part when he asks for the next.
            while self._ended:
                self._tables.pop(self._ended.pop(), None)
            self._tables[key] = load()
        self._tables.move_to_end(key)
        table = self._tables[key]
        while len(self._tables) > 1 and self._is_full():
            self._tables.popitem(last=False)
        return table

    def ended(self, key: Key) -> None:
        """Note that the last rows of it were read."""
        self._ended.add(key)

    def clear(self) -> None:
        self._tables.clear()
        self._ended.clear()

    def _is_full(self) -> bool:
        return len(self._tables) > MOST or sum(each.nbytes for each in self._tables.values()) > MOST_BYTES
