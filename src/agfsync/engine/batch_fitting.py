"""Batch sizes that fit into memory: halved when memory runs out, and kept in a file of the run. Imports no torch."""

import gc
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agfsync.engine.progress import Progress
from agfsync.errors import lacks_memory
from agfsync.files.atomic import store_errors, write_atomic
from agfsync.records import digest

_T = TypeVar("_T")
_R = TypeVar("_R")

MEMORY = "memory.json"
"""The name of the file; without it, full batches are tried again."""


@dataclass(slots=True)
class BatchFit:
    """The batch size that fits into memory; `on_lower` is called with a smaller size once a batch of it has fitted.

    >>> BatchFit(2).over([1, 2, 3], lambda batch: [10 * number for number in batch])
    [10, 20, 30]
    """

    size: int
    on_lower: Callable[[int], None] = lambda size: None

    def over(self, things: Sequence[_T], work: Callable[[Sequence[_T]], Iterable[_R]]) -> list[_R]:
        """Return one result of `work` for each of `things`, at most `size` at a time, fewer when memory runs out.

        Raises:
            Exception: memory runs out for a single thing, or any other error of `work`.
        """
        return [result for results in self.batches(things, lambda batch: list(work(batch))) for result in results]

    def batches(self, things: Sequence[_T], work: Callable[[Sequence[_T]], _R]) -> Iterator[_R]:
        """Yield the result of `work` on each batch of `things`, in order. Raises as `over` does."""
        done, size = 0, self.size
        while done < len(things):
            batch = things[done : done + size]
            try:
                result = work(batch)
            except Exception as failure:
                if len(batch) == 1 or not lacks_memory(failure):
                    raise
            else:
                if size < self.size:
                    self.lower(size)
                done += len(batch)
                yield result
                continue
            # Outside the except block the exception is deleted, and with it the frames that reference the batch.
            size = len(batch) // 2
            release_memory()

    def lower(self, size: int) -> None:
        """Use batches of `size` from now on: larger ones are known not to fit."""
        self.size = size
        self.on_lower(size)


def load_batch_fit(run: Path, what: str, source: str, batch: int, progress: Progress) -> BatchFit:
    """Return the largest batch size up to `batch` that is known to fit for `what` with settings of the digest `source`.

    When the size is lowered, the new one is also written to the file of the run, and reported.

    Raises:
        StoreError: the disk fails.
    """
    key = digest(what, source, batch)

    def remember(size: int) -> None:
        entry = {"what": what, "of": batch, "fit": size}
        write_atomic(run / MEMORY, json.dumps(_read_entries(run) | {key: entry}, indent=1).encode())
        progress.say(f"{what}: out of memory: {size} images at a time instead of {batch}; {MEMORY} remembers it")

    known = _read_entries(run).get(key, {}).get("fit")
    return BatchFit(min(known, batch) if isinstance(known, int) and known > 0 else batch, remember)


def release_memory() -> None:
    """Free the memory of models and batches that are no longer referenced."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_entries(run: Path) -> dict[str, Any]:
    """Return the file's entries; none if it is missing or damaged, which only costs another attempt."""
    path = run / MEMORY
    if not path.exists():
        return {}
    with store_errors(path):
        text = path.read_bytes()
    try:
        entries = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(entries, dict):
        return {}
    return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}
