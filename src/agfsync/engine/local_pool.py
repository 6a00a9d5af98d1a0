"""Worker processes on this machine: one for each accelerator, or the number in the recipe."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from itertools import cycle
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from agfsync.engine.packages import mute_libraries
from agfsync.engine.worker import JobWorker, TaskResult, WorkerPlan
from agfsync.recipe import Engine

SPAWN = get_context("spawn")
FORK = get_context("forkserver") if sys.platform == "linux" else SPAWN
"""On Linux, workers without an accelerator are forks of one process that only imports, so that they start at once. A
fork can't use an accelerator that an import has initialised, nor torch's threads if the forked process had some."""
PRELOADED = ("agfsync.engine.worker", "agfsync.models.latent_model")
"""The modules that the process to be forked imports, in addition to that of the first job."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
MOST_CPU_WORKERS = 8
"""Workers of `engine.workers: cores`, each of which holds a model."""


def list_accelerators(device: str) -> list[str]:
    """Return CUDA's names of the accelerators for models on `device`; none if `device` names a single one."""
    if device not in ("auto", "cuda"):
        return []
    # Imported by name: modules that every command imports are free of torch.
    count = import_module("torch").cuda.device_count()
    return os.environ.get(VISIBLE, ",".join(map(str, range(count)))).split(",")[:count]


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_wanted_workers(engine: Engine, accelerators: int) -> int:
    """Return the number of workers that `engine` wants on this machine; 0 if the work is done in this process."""
    if engine.workers == "cores":
        return accelerators or min(count_cores(), MOST_CPU_WORKERS)
    return engine.workers or accelerators


class WorkerDiedError(Exception):
    """A worker's process has ended; the message says how."""


class LocalPool:
    """A pool of `size` processes, each with one of `devices`, assigned in turn; without any, with a share of the cores.

    `device` is the device of the models in the recipe.
    """

    def __init__(self, size: int, devices: list[str], device: str = "auto") -> None:
        self.size = size
        self._context = FORK if device in ("auto", "cpu") and not devices else SPAWN
        threads = str(max(1, count_cores() // size))
        self._environments = cycle([{VISIBLE: name} for name in devices] or [{THREADS: threads}])

    def start_worker(self, plan: WorkerPlan) -> "ProcessHandle":
        return ProcessHandle(plan, next(self._environments), self._context)

    def describe_death(self, failure: BaseException) -> str | None:
        return str(failure) if isinstance(failure, WorkerDiedError) else None

    def describe_shortage(self) -> str:
        return "loading a model may take minutes"


class ProcessHandle:
    """A process that answers one call at a time; it ends with this process."""

    def __init__(self, plan: WorkerPlan, environment: Mapping[str, str], context: Any) -> None:
        self._ours, theirs = context.Pipe()
        current = {**os.environ, **environment}  # a fork would keep the environment of the first fork's start
        threads = environment.get(THREADS)
        self._process = context.Process(target=_serve_calls, args=(theirs, plan, current, threads), daemon=True)
        context.set_forkserver_preload([*PRELOADED, type(plan.job).__module__])
        with _hidden_main(), _held_interrupts():
            self._process.start()
        theirs.close()
        self._caller = ThreadPoolExecutor(1)

    def submit(self, method: str, *arguments: Any) -> Future[TaskResult]:
        return self._caller.submit(self._call_worker, method, arguments)

    def stop(self) -> None:
        self._process.kill()
        self._caller.shutdown(wait=True)
        self._process.join()
        self._ours.close()

    def _call_worker(self, method: str, arguments: tuple[Any, ...]) -> TaskResult:
        try:
            self._ours.send((method, arguments))
            result: TaskResult = self._ours.recv()
        except (EOFError, ConnectionError) as failure:
            self._process.join()
            raise WorkerDiedError(f"its process ended with {_describe_exit(self._process.exitcode)}") from failure
        return result


def _describe_exit(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep processes started within the context from running the program's main module again.

    A script that calls `agfsync.run` without an `if __name__ == "__main__"` would start itself in every worker. Workers
    don't need it: their arguments are pickled by the names of importable modules.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    try:
        for name in hidden:
            setattr(main, name, None)
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """Block Ctrl-C in this thread within the context, and for good in processes started within it.

    A worker, and the process that workers are forked from, end with this process. While they still import, they can't
    ignore Ctrl-C yet, and would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve_calls(calls: Connection, plan: WorkerPlan, environment: Mapping[str, str], threads: str | None) -> None:
    """Serve calls until the leading process ends. Ctrl-C is ignored, since the leading process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    if threads is not None:
        import_module("torch").set_num_threads(int(threads))  # OpenMP in a fork doesn't read the variable again
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = JobWorker(plan)
    with mute_libraries():
        while True:
            try:
                method, arguments = calls.recv()
            except EOFError:
                return
            calls.send(getattr(worker, method)(*arguments))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
