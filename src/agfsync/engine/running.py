"""The choice of where a job runs: this process, other processes on this machine, or a Ray cluster."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from agfsync.engine.batch_fitting import load_batch_fit
from agfsync.engine.jobs import SERVER, Job, JobContext, Outcome, Unit
from agfsync.engine.local_pool import LocalPool, count_wanted_workers, list_accelerators
from agfsync.engine.packages import require_package
from agfsync.engine.pool import Dispatcher, WorkerPool
from agfsync.engine.processing import PendingUnits, check_budget, process_units
from agfsync.engine.progress import Progress
from agfsync.engine.worker import TaskResult, WorkerPlan
from agfsync.errors import StoreError
from agfsync.recipe import Engine
from agfsync.store import Run
from agfsync.store.parts import DamagedPartError, check_size
from agfsync.store.streams import Reiterable

_P = TypeVar("_P")


def run_job(
    run: Run,
    table: str,
    units: Reiterable[Unit[_P]],
    job: Job[_P],
    *,
    engine: Engine,
    at_once: int,
    schema: pa.Schema,
    progress: Progress,
    budget: float,
    unit: str = "captions",
    title: str | None = None,
) -> None:
    """Do the missing `units`, `at_once` at a time; the job's model is loaded only if there are any.

    Raises:
        ModelError: the model can't be loaded. BudgetError: more than the share `budget` of the units is skipped.
        WorkerError: no worker can be started, or they die as soon as they start.
    """
    pending = PendingUnits(run, table, units)
    if not pending.count_ahead(1):
        return
    title = title or table
    fit = load_batch_fit(run.path, title, job.source, job.batch, progress)
    pool = _find_pool(engine, job.device, pending, at_once)
    if pool is None:
        work = _open_here(job, JobContext(run, fit, progress.say))
        common = {"schema": schema, "progress": progress, "budget": budget, "unit": unit, "title": title}
        process_units(run, table, pending, work, batch=at_once, **common)
        return
    plan = WorkerPlan(run.path.absolute(), schema, job, at_once, fit.size, Path.cwd())
    dispatcher = Dispatcher(run, table, pending, plan, pool, progress)
    progress.say(f"{title}: loading in {dispatcher.size} worker{'s' if dispatcher.size > 1 else ''}")
    with (
        progress.stage(title, len(units), unit, pending.pop_found_count()) as task,
        closing(dispatcher.results()) as results,
    ):
        for result in results:
            _enter_result(run, table, result, dispatcher.size)
            task.add_done(pending.pop_found_count())
            task.advance(len(result.units) + len(result.skips))
            if result.fit is not None and result.fit < fit.size:
                fit.lower(result.fit)
                dispatcher.lower_batch(result.fit)
            if result.skips:
                check_budget(table, run.list_skipped(table, own=True), len(units), budget, unit)
            if result.stopped is not None:
                _quarantine_damaged_input(run, job, dispatcher.last_units, result.stopped)
                raise result.stopped


def _find_pool(engine: Engine, device: str, pending: PendingUnits[_P], at_once: int) -> WorkerPool | None:
    """Return the pool for the pending units, `at_once` at a time; None if this process does them."""
    if device == SERVER:
        return None
    if engine.type == "ray":
        require_package("ray", "engine ray")
        pool: WorkerPool = import_module("agfsync.engine.ray_pool").RayPool(engine)
        return pool
    devices = list_accelerators(device)
    size = pending.count_batches(at_once, most=count_wanted_workers(engine, len(devices)))
    return LocalPool(size, devices, device) if size > 1 else None


def _open_here(job: Job[_P], context: JobContext) -> Callable[[Sequence[_P]], Iterable[Outcome]]:
    @cache
    def work() -> Callable[[Sequence[_P]], Iterable[Outcome]]:
        return job.open(context)

    return lambda payloads: work()(payloads)


def _enter_result(run: Run, table: str, result: TaskResult, workers: int) -> None:
    """Enter a result's units with their part in the manifest, all or nothing, and the skipped units.

    Raises:
        StoreError: the part is not on this machine.
    """
    if result.part is not None:
        try:
            check_size(run.path / result.part.path, result.part.size)
        except DamagedPartError as fault:
            where = run.path.absolute() / result.part.path
            raise StoreError(
                f"{where}: a worker wrote it, but here it {fault}: every machine needs the run folder at this path"
            ) from fault
    if result.units:
        # Workers run in parallel: each takes a share of the stage's time.
        seconds = result.seconds / workers
        run.enter(table, result.units, result.part, dropped=result.dropped, seconds=seconds)
    for key, skip in result.skips.items():
        run.skip(table, key, skip.reason, skip.where)


def _quarantine_damaged_input(run: Run, job: Job[_P], units: Sequence[Unit[_P]], stopped: Exception) -> None:
    """Read a failed worker's input again: workers only report damaged parts, and this process quarantines them.

    Raises:
        StoreError: a part was quarantined.
    """
    if isinstance(stopped, StoreError) and units:
        table, keys = job.reads([unit.payload for unit in units])
        for _ in run.rows(table, units=keys):
            pass
