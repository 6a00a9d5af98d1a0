"""Batches that fit into memory: halved when it runs out, and remembered in a small file of the run."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agfsync.engine.memory import release
from agfsync.engine.progress import Progress
from agfsync.errors import lacks_memory
from agfsync.files.atomic import guarded, write_atomic
from agfsync.records import digest

T = TypeVar("T")
R = TypeVar("R")

MEMORY = "memory.json"
"""The file; without it, full batches are tried anew."""


def _nobody(size: int) -> None:
    """Tells nobody."""


@dataclass(slots=True)
class Fit:
    """How many things go through a model at a time. `lowered` is told a smaller size, once it is known to fit."""

    size: int
    lowered: Callable[[int], None] = _nobody

    def over(self, things: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]]) -> list[R]:
        """What `work` makes of `things`, one result for each: at most `size` at a time, fewer when memory runs out.

        Raises:
            Exception: memory runs out for one thing alone, or whatever else `work` raises.
        """
        return [each for made in self.batches(things, lambda some: list(work(some))) for each in made]

    def batches(self, things: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[R]:
        """What `work` makes of each batch of `things`, in order; as `over` in all else."""
        done, size = 0, self.size
        while done < len(things):
            some = things[done : done + size]
            try:
                made = work(some)
            except Exception as failure:
                if len(some) == 1 or not lacks_memory(failure):
                    raise
            else:
                if size < self.size:
                    self.lower(size)
                done += len(some)
                yield made
                continue
            # Here the failure is gone, and with it the frames that held on to the batch.
            size = len(some) // 2
            release()

    def lower(self, size: int) -> None:
        """From now on, `size` at a time: more are known not to fit."""
        self.size = size
        self.lowered(size)


def fitted(run: Path, what: str, source: str, batch: int, progress: Progress) -> Fit:
    """The largest batch, up to `batch`, that is known to fit for `what`, of settings that `source` names.

    A size that is found too large is lowered in the run's file too, and told.

    Raises:
        StoreError: the disk fails.
    """
    key = digest(what, source, batch)

    def lowered(size: int) -> None:
        noted = {"what": what, "of": batch, "fit": size}
        write_atomic(run / MEMORY, json.dumps(_noted(run) | {key: noted}, indent=1).encode())
        progress.say(f"{what}: out of memory: {size} pictures at a time instead of {batch}; {MEMORY} remembers it")

    known = _noted(run).get(key, {}).get("fit")
    return Fit(min(known, batch) if isinstance(known, int) and known > 0 else batch, lowered)


def _noted(run: Path) -> dict[str, Any]:
    """What the file says; nothing where it isn't there or isn't what was written, for it only spares a try."""
    path = run / MEMORY
    if not path.exists():
        return {}
    with guarded(path):
        text = path.read_bytes()
    try:
        noted = json.loads(text)
    except ValueError:
        return {}
    return {key: each for key, each in noted.items() if isinstance(each, dict)} if isinstance(noted, dict) else {}
