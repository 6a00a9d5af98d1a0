"""Units shared out among workers that may die, each unit entered once.

Ray Data would do the first half: it feeds a pool of actors and restarts them. But it passes on what they return, and
what has reached the disk when one dies in between is its own affair. pebble's pools replace dead workers too, but tell
neither which units a worker held when it died nor let each worker see an accelerator of its own. Here a task names the
part that it writes, and a part counts when its entry is in the manifest, in the transaction that enters its units: so
the dispatch is our own, on futures, and Ray's actors and this machine's processes are two kinds of worker for it.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Protocol

from agfsync.engine.jobs import Skip, Unit
from agfsync.engine.processing import PART_BYTES, PendingUnits
from agfsync.engine.progress import Progress
from agfsync.engine.worker import TaskResult, WorkerPlan
from agfsync.errors import WorkerError
from agfsync.store import Run

TASK_SECONDS = 20.0
"""The time that a task should take, about: this much work is lost when a worker dies."""
DEATHS = 3
"""Workers that may die of a unit, when it was their only one, before it is skipped."""
FALSE_STARTS = 5
"""Deaths in a row, per worker, while the model is loaded, after which there is no use in going on."""
LOAD_SECONDS = 120.0
"""Seconds without any worker that has loaded its model after which that is reported."""


class WorkerHandle(Protocol):
    """A process with a `JobWorker` in it."""

    def submit(self, method: str, *arguments: Any) -> Future[TaskResult]:
        """Call a method of its `JobWorker`; one at a time."""
        ...

    def stop(self) -> None:
        """End it, whatever it does."""
        ...


class WorkerPool(Protocol):
    """A place where workers can be started."""

    size: int

    def start_worker(self, plan: WorkerPlan) -> WorkerHandle:
        """Start a worker."""
        ...

    def describe_death(self, failure: BaseException) -> str | None:
        """Return how a worker has died, if a call's `failure` says that it has."""
        ...

    def describe_shortage(self) -> str:
        """Return in a line why there may be no worker yet."""
        ...


@dataclass(frozen=True, slots=True)
class PartTask:
    """Units to do, and the part to write them to. `killed` counts the workers that died while they did just these."""

    path: str
    units: Sequence[Unit[Any]]
    killed: int = 0


class Dispatcher:
    """Sends what is `pending` of the run's `table` through the workers of `pool`."""

    def __init__(
        self, run: Run, table: str, pending: PendingUnits[Any], plan: WorkerPlan, pool: WorkerPool, progress: Progress
    ) -> None:
        self.run, self.table, self.plan, self.progress = run, table, plan, progress
        self._pool, self.size = pool, pending.count_batches(plan.at_once, most=pool.size)
        self.last_units: Sequence[Unit[Any]] = ()
        """the units of the last result"""
        self._pending = pending
        self._retries: list[tuple[Sequence[Unit[Any]], int]] = []
        """tasks of dead workers, and how many died of just these units"""
        self._suspects: deque[tuple[Sequence[Unit[Any]], int]] = deque()
        """the same, of single units: they wait until nothing else is left"""
        self._busy: dict[Future[TaskResult], tuple[WorkerHandle, PartTask | None]] = {}
        """each worker at a task, or at loading its model"""
        self._idle: list[WorkerHandle] = []
        self._false_starts = 0
        self._task_size = float(plan.at_once)
        """units that a task may have, estimated from the last one"""

    def results(self) -> Generator[TaskResult, None, None]:
        """Yield the result of each task as it comes; to be entered before the next is asked for.

        Raises:
            WorkerError: workers die before they have loaded their model, again and again.
        """
        try:
            for _ in range(self.size):
                self._start_worker()
            patience: float | None = LOAD_SECONDS
            while self._has_tasks() or any(task for _, task in self._busy.values()):
                finished, _ = wait(self._busy, patience, FIRST_COMPLETED)
                if not finished:
                    message = (
                        f"in {LOAD_SECONDS:.0f} s no worker has loaded its model: {self._pool.describe_shortage()}"
                    )
                    self.progress.say(f"{self.table}: {message}")
                patience = None
                for future in finished:
                    yield from self._collect_result(future)
        finally:
            for worker, task in [*self._busy.values(), *((worker, None) for worker in self._idle)]:
                worker.stop()
                self._remove_part(task)

    def lower_batch(self, fit: int) -> None:
        """Give workers that start from now on batches of `fit`."""
        self.plan = replace(self.plan, fit=fit)

    def _start_worker(self) -> None:
        worker = self._pool.start_worker(self.plan)
        self._busy[worker.submit("open")] = (worker, None)

    def _assign_task(self, worker: WorkerHandle) -> None:
        task = self._next_task()
        if task is None:
            self._idle.append(worker)
        else:
            self._busy[worker.submit("do", task.path, task.units)] = (worker, task)

    def _next_task(self) -> PartTask | None:
        if not self._has_tasks():
            return None
        if self._retries:
            units, killed = self._retries.pop()
        elif self._pending.count_ahead(1):
            units, killed = self._pending.take(self._choose_size()), 0
        else:
            units, killed = self._suspects.popleft()
        return PartTask(self.run.reserve_part(self.table), units, killed)

    def _has_tasks(self) -> bool:
        return bool(self._retries or self._suspects or self._pending.count_ahead(1))

    def _choose_size(self) -> int:
        """Return the next task's number of units: whole batches, and few near the end, so that workers end together."""
        fair = ceil(self._pending.bound / (2 * self.size))
        at_once = self.plan.at_once
        return max(int(min(self._task_size, fair)) // at_once, 1) * at_once

    def _collect_result(self, future: Future[TaskResult]) -> Iterator[TaskResult]:
        worker, task = self._busy.pop(future)
        failure = future.exception()
        if failure is not None:
            reason = self._pool.describe_death(failure)
            if reason is None:
                self._idle.append(worker)
                raise failure
            yield from self._replace_worker(worker, task, reason)
            return
        result = future.result()
        self.last_units = task.units if task else ()
        if task is None:
            self._false_starts = 0
        elif result.units:
            bytes_ = result.part.size if result.part else 0
            spent = max(result.seconds / TASK_SECONDS, bytes_ / PART_BYTES, 1e-9)
            self._task_size = len(result.units) / spent
        self._idle.append(worker)
        yield result
        self._idle.remove(worker)
        self._assign_task(worker)

    def _replace_worker(self, worker: WorkerHandle, task: PartTask | None, reason: str) -> Iterator[TaskResult]:
        """Start another worker in the dead one's place."""
        worker.stop()
        self._remove_part(task)
        if task is None:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS * self.size:
                raise WorkerError(
                    f"{self.table}: {self._false_starts} workers in a row died before they had loaded their model"
                    f" (the last: {reason}): see that there is memory for engine.workers of them, or try engine local"
                )
        else:
            yield from self._retry_units(task.units, task.killed + 1, reason)
        while self._idle and self._has_tasks():
            self._assign_task(self._idle.pop())
        if self._has_tasks():
            self._start_worker()

    def _retry_units(self, units: Sequence[Unit[Any]], killed: int, reason: str) -> Iterator[TaskResult]:
        """Do a dead worker's units again: first as they are, for most workers die of something else; then by halves.

        So a unit that kills its workers is alone in the end, and known.
        """
        if len(units) == 1 and killed >= DEATHS:
            skip = Skip(f"{DEATHS} workers died of it (the last: {reason})", f"unit {units[0].key}")
            yield TaskResult(skips={units[0].key: skip})
        elif len(units) == 1:
            self._suspects.append((units, killed))
        elif killed > 1:
            half = ceil(len(units) / 2)
            self._retries += [(units[half:], 0), (units[:half], 0)]
        else:
            self._retries.append((units, killed))

    def _remove_part(self, task: PartTask | None) -> None:
        """Remove what a dead worker may have written: the next run would do it too, but others read the folder."""
        if task is None:
            return
        for ending in ("", ".tmp"):
            (self.run.path / (task.path + ending)).unlink(missing_ok=True)
