"""Does a job's units where the recipe says: in this process, in others of this machine, or on a Ray cluster."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from agfsync.engine.crew import Crew, Shift
from agfsync.engine.fitting import fitted
from agfsync.engine.hand import Delivery, Plan
from agfsync.engine.missing import Missing
from agfsync.engine.packages import need
from agfsync.engine.processes import Processes, accelerators, wanted_workers
from agfsync.engine.processing import check_budget, process
from agfsync.engine.progress import Progress
from agfsync.engine.work import SERVER, Desk, Job, Outcome, Unit
from agfsync.errors import StoreError
from agfsync.recipe import Engine
from agfsync.store import Run
from agfsync.store.parts import BadPart, check_size
from agfsync.store.streams import Many

P = TypeVar("P")


def carry_out(
    run: Run,
    table: str,
    units: Many[Unit[P]],
    job: Job[P],
    *,
    engine: Engine,
    at_once: int,
    schema: pa.Schema,
    progress: Progress,
    budget: float,
    unit: str = "captions",
    title: str | None = None,
) -> None:
    """Do those of the `units` that aren't done, `at_once` at a time; the job's model is loaded if there are any.

    Raises:
        ModelError: the model can't be loaded. BudgetError: more than the share `budget` of the units is skipped.
        WorkerError: there are no workers to be had, or they die at once.
    """
    missing = Missing(run, table, units)
    if not missing.ahead(1):
        return
    title = title or table
    fit = fitted(run.path, title, job.source, job.batch, progress)
    crew = _crew(engine, job.device, missing, at_once)
    if crew is None:
        work = _here(job, Desk(run, fit, progress.say))
        common = {"schema": schema, "progress": progress, "budget": budget, "unit": unit, "title": title}
        process(run, table, missing, work, batch=at_once, **common)
        return
    plan = Plan(run.path.absolute(), schema, job, at_once, fit.size, Path.cwd())
    shift = Shift(run, table, missing, plan, crew, progress)
    progress.say(f"{title}: loading in {shift.size} worker{'s' if shift.size > 1 else ''}")
    with (
        progress.stage(title, len(units), unit, missing.found()) as task,
        closing(shift.deliveries()) as deliveries,
    ):
        for delivery in deliveries:
            _enter(run, table, delivery, shift.size)
            task.found(missing.found())
            task.advance(len(delivery.units) + len(delivery.skips))
            if delivery.fit is not None and delivery.fit < fit.size:
                fit.lower(delivery.fit)
                shift.lower(delivery.fit)
            if delivery.skips:
                check_budget(table, run.skipped(table), len(units), budget, unit)
            if delivery.stopped is not None:
                _look_at_what_was_read(run, job, shift.at_hand, delivery.stopped)
                raise delivery.stopped


def _crew(engine: Engine, device: str, missing: Missing[P], at_once: int) -> Crew | None:
    """Who does what is missing, `at_once` at a time; None where it is done in this process."""
    if device == SERVER:
        return None
    if engine.type == "ray":
        need("ray", "engine ray")
        crew: Crew = import_module("agfsync.engine.on_ray").RayCrew(engine)
        return crew
    devices = accelerators(device)
    size = missing.portions(at_once, most=wanted_workers(engine, len(devices)))
    return Processes(size, devices) if size > 1 else None


def _here(job: Job[P], desk: Desk) -> Callable[[Sequence[P]], Iterable[Outcome]]:
    @cache
    def opened() -> Callable[[Sequence[P]], Iterable[Outcome]]:
        return job.open(desk)

    return lambda payloads: opened()(payloads)


def _enter(run: Run, table: str, delivery: Delivery, workers: int) -> None:
    """Its units with their part, all of it or nothing; and those that are skipped.

    Raises:
        StoreError: the part isn't here.
    """
    if delivery.part is not None:
        try:
            check_size(run.path / delivery.part.path, delivery.part.size)
        except BadPart as fault:
            where = run.path.absolute() / delivery.part.path
            raise StoreError(
                f"{where}: a worker wrote it, and here it {fault}: every machine needs the run folder at this place"
            ) from fault
    if delivery.units:
        # Workers take their time side by side: of the stage's, each takes a share.
        seconds = delivery.seconds / workers
        run.enter(table, delivery.units, delivery.part, dropped=delivery.dropped, seconds=seconds)
    for key, skip in delivery.skips.items():
        run.skip(table, key, skip.reason, skip.where)


def _look_at_what_was_read(run: Run, job: Job[P], units: Sequence[Unit[P]], stopped: Exception) -> None:
    """A worker that meets a damaged part only says so; here, where one may, it is set aside.

    Raises:
        StoreError: it was.
    """
    if isinstance(stopped, StoreError) and units:
        table, keys = job.reads([each.payload for each in units])
        for _ in run.rows(table, units=keys):
            pass
