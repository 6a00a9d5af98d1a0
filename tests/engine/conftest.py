"""A run, a job that makes captions of numbers, and a pool whose workers die as a test says."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agfsync.engine.jobs import JobContext, Outcome, Unit
from agfsync.engine.worker import JobWorker, TaskResult, WorkerPlan
from agfsync.records import Caption
from agfsync.store import Run


@dataclasses.dataclass(frozen=True)
class Captions:
    """One caption for each number; `outcome` may say otherwise."""

    outcome: Callable[[int], Outcome] = lambda number: [Caption(f"k{number}", f"text {number}", "animals", "train")]
    opening: Callable[[], None] = lambda: None
    room: int = 100
    source: str = "source"
    batch: int = 4
    device: str = "cpu"

    def reads(self, numbers: Sequence[int]) -> tuple[str, Sequence[str]]:
        return "questions", [f"q{number}" for number in numbers]

    def open(self, desk: JobContext) -> Callable[[Sequence[int]], Sequence[Outcome]]:
        self.opening()

        def some(numbers: Sequence[int]) -> list[Outcome]:
            if len(numbers) > self.room:
                raise MemoryError
            return [self.outcome(number) for number in numbers]

        return lambda numbers: desk.fit.over(numbers, some)


class Worker:
    """Works when it is called, in this process."""

    def __init__(self, plan: WorkerPlan, pool: "Pool") -> None:
        self.inner, self.pool, self.stopped = JobWorker(plan), pool, False

    def submit(self, method: str, *arguments: Any) -> Future[TaskResult]:
        future: Future[TaskResult] = Future()
        units = arguments[1] if arguments else None
        try:
            self.pool.tasks.append(units)
            if self.pool.dies(units):
                raise self.pool.Died(f"lightning {len(self.pool.workers)}")
            future.set_result(getattr(self.inner, method)(*arguments))
        except self.pool.Died as failure:
            future.set_exception(failure)
        return future

    def stop(self) -> None:
        self.stopped = True


class Pool:
    """`dies` is asked before each task, and with None before each opening, whether the worker dies of it."""

    class Died(Exception):
        """A worker is gone."""

    def __init__(self, dies: Callable[[Sequence[Unit[int]] | None], bool], size: int = 2) -> None:
        self.dies, self.size = dies, size
        self.workers: list[Worker] = []
        self.tasks: list[Sequence[Unit[int]] | None] = []

    def start_worker(self, plan: WorkerPlan) -> Worker:
        self.workers.append(Worker(plan, self))
        return self.workers[-1]

    def describe_death(self, failure: BaseException) -> str | None:
        return str(failure) if isinstance(failure, self.Died) else None

    def describe_shortage(self) -> str:
        return "nothing"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.create(tmp_path / "run", "") as made:
        yield made


@pytest.fixture
def captions() -> type[Captions]:
    return Captions


@pytest.fixture
def pool() -> type[Pool]:
    return Pool
