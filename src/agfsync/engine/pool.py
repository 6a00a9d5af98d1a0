"""The dispatch of units to workers that may die; each unit enters the manifest once.

Ray Data does the first half: it feeds a pool of actors and restarts them. But it passes on their results, and doesn't
handle what a worker has written to the disk before it died. pebble's pools also replace dead workers, but don't report
which units a worker held when it died, nor give each worker its own accelerator. Here a task names the part that it
writes, and a part is valid once its entry is in the manifest, in the transaction that enters its units. So this module
has its own dispatch, on futures, with two kinds of workers: Ray's actors and this machine's processes.
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
"""The approximate time of a task: this much work is lost when a worker dies."""
DEATHS = 3
"""A unit that is alone in its task is skipped after this number of workers died of it."""
FALSE_STARTS = 5
"""The job is given up after this number of deaths in a row, per worker, while loading the model."""
LOAD_SECONDS = 120.0
"""Seconds after which it is reported that no worker has loaded its model yet."""


class WorkerHandle(Protocol):
    """A process with a `JobWorker` in it."""

    def submit(self, method: str, *arguments: Any) -> Future[TaskResult]:
        """Call a method of its `JobWorker`; only one call runs at a time."""
        ...

    def stop(self) -> None:
        """End the process, also while it works."""
        ...


class WorkerPool(Protocol):
    """A place where workers can be started."""

    size: int

    def start_worker(self, plan: WorkerPlan) -> WorkerHandle:
        """Start a worker."""
        ...

    def describe_death(self, failure: BaseException) -> str | None:
        """Return how a worker died; None if the `failure` of a call doesn't mean its death."""
        ...

    def describe_shortage(self) -> str:
        """Return a line on why there may be no worker yet."""
        ...


@dataclass(frozen=True, slots=True)
class PartTask:
    """Units to do, and the part to write them to. `killed` is the number of workers that died of just these units."""

    path: str
    units: Sequence[Unit[Any]]
    killed: int = 0


class Dispatcher:
    """Dispatches the `pending` units of the run's `table` to the workers of `pool`."""

    def __init__(
        self, run: Run, table: str, pending: PendingUnits[Any], plan: WorkerPlan, pool: WorkerPool, progress: Progress
    ) -> None:
        self.run, self.table, self.plan, self.progress = run, table, plan, progress
        self._pool, self.size = pool, pending.count_batches(plan.at_once, most=pool.size)
        self.last_units: Sequence[Unit[Any]] = ()
        """the units of the last result"""
        self._pending = pending
        self._retries: list[tuple[Sequence[Unit[Any]], int]] = []
        """tasks of dead workers, with the number of workers that died of exactly these units"""
        self._suspects: deque[tuple[Sequence[Unit[Any]], int]] = deque()
        """the same for single units, which are retried last"""
        self._busy: dict[Future[TaskResult], tuple[WorkerHandle, PartTask | None]] = {}
        """workers that do a task, or load their model (None)"""
        self._idle: list[WorkerHandle] = []
        self._false_starts = 0
        self._task_size = float(plan.at_once)
        """the number of units for a task, estimated from the last one"""

    def results(self) -> Generator[TaskResult, None, None]:
        """Yield the result of each task as it arrives; enter it in the manifest before the next one is requested.

        Raises:
            WorkerError: too many workers in a row die before they have loaded their model.
        """
        try:
            for _ in range(self.size):
                self._start_worker()
            timeout: float | None = LOAD_SECONDS
            while self._has_tasks() or any(task for _, task in self._busy.values()):
                finished, _ = wait(self._busy, timeout, FIRST_COMPLETED)
                if not finished:
                    message = (
                        f"in {LOAD_SECONDS:.0f} s no worker has loaded its model: {self._pool.describe_shortage()}"
                    )
                    self.progress.say(f"{self.table}: {message}")
                timeout = None
                for future in finished:
                    yield from self._collect_result(future)
        finally:
            for worker, task in [*self._busy.values(), *((worker, None) for worker in self._idle)]:
                worker.stop()
                self._remove_part(task)

    def lower_batch(self, fit: int) -> None:
        """Start later workers with batches of `fit`."""
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
        """Return the size of the next task: whole batches, fewer near the end, so that workers finish together."""
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
            share_of_limits = max(result.seconds / TASK_SECONDS, bytes_ / PART_BYTES, 1e-9)
            self._task_size = len(result.units) / share_of_limits
        self._idle.append(worker)
        yield result
        self._idle.remove(worker)
        self._assign_task(worker)

    def _replace_worker(self, worker: WorkerHandle, task: PartTask | None, reason: str) -> Iterator[TaskResult]:
        """Replace a dead worker by a new one, and retry its task."""
        worker.stop()
        self._remove_part(task)
        if task is None:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS * self.size:
                raise WorkerError(
                    f"{self.table}: {self._false_starts} workers in a row died before they had loaded their model"
                    f" (the last: {reason}): lower engine.workers if memory is short, or try engine local"
                )
        else:
            yield from self._retry_units(task.units, task.killed + 1, reason)
        while self._idle and self._has_tasks():
            self._assign_task(self._idle.pop())
        if self._has_tasks():
            self._start_worker()

    def _retry_units(self, units: Sequence[Unit[Any]], killed: int, reason: str) -> Iterator[TaskResult]:
        """Retry a dead worker's units: first all at once, since most deaths have another cause; then by halves.

        So a unit that kills its workers is isolated in the end, and skipped.
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
        """Remove the part of a dead worker: the next run would also remove it, but other programs read the folder."""
        if task is None:
            return
        for ending in ("", ".tmp"):
            (self.run.path / (task.path + ending)).unlink(missing_ok=True)
