"""Units shared out among workers that may die, each unit entered once.

Ray Data would do the first half: it feeds a pool of actors and starts them anew. But it hands on what they return, and
what has reached the disk when one dies in between is its own affair. Here a task names the part that it writes, and a
part counts when its receipt has been entered, in the transaction that enters its units: so the dispatch is our own, on
futures, and Ray's actors and this machine's processes are two kinds of worker for it.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Protocol

from agfsync.engine.hand import Delivery, Plan
from agfsync.engine.missing import Missing
from agfsync.engine.part import PART_BYTES
from agfsync.engine.progress import Progress
from agfsync.engine.work import Skip, Unit
from agfsync.errors import WorkerError
from agfsync.store import Run

TASK_SECONDS = 20.0
"""What a task is to take, about: what the death of a worker can cost."""
DEATHS = 3
"""Workers that a unit may kill, alone in their hands, before it is skipped."""
FALSE_STARTS = 5
"""Deaths in a row of each worker while it loads its model, after which there is no use in going on."""
PATIENCE = 120.0
"""Seconds without any worker that has loaded its model after which that is told."""


class Worker(Protocol):
    """A process with a `Hand` in it."""

    def submit(self, method: str, *arguments: Any) -> Future[Delivery]:
        """Call a method of its hand; one at a time."""
        ...

    def stop(self) -> None:
        """End it, whatever it does."""
        ...


class Crew(Protocol):
    """Where workers come from."""

    size: int

    def hire(self, plan: Plan) -> Worker: ...

    def death(self, failure: BaseException) -> str | None:
        """How a worker has died, where a call's `failure` says that it has."""
        ...

    def lacks(self) -> str:
        """Why there may be no worker yet, in a line."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """Units to do, and the part to write them to. `killed` counts the workers that died with just these in hand."""

    path: str
    units: Sequence[Unit[Any]]
    killed: int = 0


class Shift:
    """What is `missing` of the run's `table`, on its way through the workers of `crew`."""

    def __init__(self, run: Run, table: str, missing: Missing[Any], plan: Plan, crew: Crew, progress: Progress) -> None:
        self.run, self.table, self.plan, self.progress = run, table, plan, progress
        self._crew, self.size = crew, missing.portions(plan.at_once, most=crew.size)
        self.at_hand: Sequence[Unit[Any]] = ()
        """the units of the delivery that was given last"""
        self._fresh = missing
        self._again: list[tuple[Sequence[Unit[Any]], int]] = []
        """what dead workers had in hand, and how many died of just that"""
        self._suspects: deque[tuple[Sequence[Unit[Any]], int]] = deque()
        """the same, of units that were alone: they wait until nothing else is left"""
        self._busy: dict[Future[Delivery], tuple[Worker, Task | None]] = {}
        """each worker at a task, or at loading its model"""
        self._idle: list[Worker] = []
        self._false_starts = 0
        self._afford = float(plan.at_once)
        """units that a task can have so that it takes its time, by what the last one took"""

    def deliveries(self) -> Generator[Delivery, None, None]:
        """What comes of every unit, task by task, as it comes; to be entered before the next is asked for.

        Raises:
            WorkerError: workers die before they have loaded their model, again and again.
        """
        try:
            for _ in range(self.size):
                self._hire()
            patience: float | None = PATIENCE
            while self._left() or any(task for _, task in self._busy.values()):
                finished, _ = wait(self._busy, patience, FIRST_COMPLETED)
                if not finished:
                    told = f"in {PATIENCE:.0f} s no worker has loaded its model: {self._crew.lacks()}"
                    self.progress.say(f"{self.table}: {told}")
                patience = None
                for future in finished:
                    yield from self._come_back(future)
        finally:
            for worker, task in [*self._busy.values(), *((worker, None) for worker in self._idle)]:
                worker.stop()
                self._forget(task)

    def lower(self, fit: int) -> None:
        """Let workers that begin from now on have batches of `fit`."""
        self.plan = replace(self.plan, fit=fit)

    def _hire(self) -> None:
        worker = self._crew.hire(self.plan)
        self._busy[worker.submit("open")] = (worker, None)

    def _give(self, worker: Worker) -> None:
        task = self._next()
        if task is None:
            self._idle.append(worker)
        else:
            self._busy[worker.submit("do", task.path, task.units)] = (worker, task)

    def _next(self) -> Task | None:
        if not self._left():
            return None
        if self._again:
            units, killed = self._again.pop()
        elif self._fresh.ahead(1):
            units, killed = self._fresh.take(self._count()), 0
        else:
            units, killed = self._suspects.popleft()
        return Task(self.run.part_elsewhere(self.table), units, killed)

    def _left(self) -> bool:
        return bool(self._again or self._suspects or self._fresh.ahead(1))

    def _count(self) -> int:
        """Units of the next task: whole batches, and towards the end few, so that the workers end together."""
        fair = ceil(self._fresh.bound / (2 * self.size))
        at_once = self.plan.at_once
        return max(int(min(self._afford, fair)) // at_once, 1) * at_once

    def _come_back(self, future: Future[Delivery]) -> Iterator[Delivery]:
        worker, task = self._busy.pop(future)
        failure = future.exception()
        if failure is not None:
            reason = self._crew.death(failure)
            if reason is None:
                self._idle.append(worker)
                raise failure
            yield from self._bury(worker, task, reason)
            return
        delivery = future.result()
        self.at_hand = task.units if task else ()
        if task is None:
            self._false_starts = 0
        elif delivery.units:
            bytes_ = delivery.part.size if delivery.part else 0
            spent = max(delivery.seconds / TASK_SECONDS, bytes_ / PART_BYTES, 1e-9)
            self._afford = len(delivery.units) / spent
        self._idle.append(worker)
        yield delivery
        self._idle.remove(worker)
        self._give(worker)

    def _bury(self, worker: Worker, task: Task | None, reason: str) -> Iterator[Delivery]:
        """Another worker takes the dead one's place."""
        worker.stop()
        self._forget(task)
        if task is None:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS * self.size:
                raise WorkerError(
                    f"{self.table}: {self._false_starts} workers in a row died before they had loaded their model"
                    f" (the last: {reason}): see that there is memory for engine.workers of them, or try engine local"
                )
        else:
            yield from self._suspect(task.units, task.killed + 1, reason)
        while self._idle and self._left():
            self._give(self._idle.pop())
        if self._left():
            self._hire()

    def _suspect(self, units: Sequence[Unit[Any]], killed: int, reason: str) -> Iterator[Delivery]:
        """What a dead worker had in hand is done again: first as it is, for most die of something else; then by halves.

        So a unit that kills whoever does it is alone in the end, and known.
        """
        if len(units) == 1 and killed >= DEATHS:
            yield Delivery(skips={units[0].key: Skip(f"{DEATHS} workers died of it (the last: {reason})")})
        elif len(units) == 1:
            self._suspects.append((units, killed))
        elif killed > 1:
            half = ceil(len(units) / 2)
            self._again += [(units[half:], 0), (units[:half], 0)]
        else:
            self._again.append((units, killed))

    def _forget(self, task: Task | None) -> None:
        """What the dead worker may have written is no part; a sweep would find it, but others read the folder too."""
        if task is None:
            return
        for ending in ("", ".tmp"):
            (self.run.path / (task.path + ending)).unlink(missing_ok=True)
