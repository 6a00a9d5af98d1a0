"""Does a stage's work in this process."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pyarrow as pa

from agfsync.engine.missing import Missing
from agfsync.engine.part import PART_BYTES, PART_SECONDS, Part
from agfsync.engine.progress import Progress
from agfsync.engine.work import Outcome, Unit
from agfsync.errors import BudgetError
from agfsync.store import Run
from agfsync.store.manifest import Skipped
from agfsync.store.streams import Many

P = TypeVar("P")


def process(
    run: Run,
    stage: str,
    units: Many[Unit[P]] | Missing[P],
    work: Callable[[Sequence[P]], Iterable[Outcome]],
    *,
    batch: int,
    schema: pa.Schema,
    progress: Progress,
    budget: float,
    unit: str = "captions",
    title: str | None = None,
    part_bytes: int = PART_BYTES,
    part_seconds: float = PART_SECONDS,
) -> None:
    """Do the units that aren't done, `batch` at a time; `work` gives one outcome for each payload, in order.

    Whoever has looked already gives what is `Missing`.

    Stopped in whatever way that Python notices, be it by an error in `work` after some outcomes, what is complete is
    committed first. A unit that fails is skipped.

    Raises:
        BudgetError: more than the share `budget` of the units is skipped.
    """
    missing = units if isinstance(units, Missing) else Missing(run, stage, units)
    if not missing.ahead(1):
        return
    part = Part(run, stage, schema, part_bytes, part_seconds)
    with progress.stage(title or stage, missing.total, unit, missing.found()) as task:
        try:
            while chunk := missing.take(batch):
                task.found(missing.found())
                outcomes = work([each.payload for each in chunk])
                for each, outcome in zip(chunk, outcomes, strict=True):
                    part.add(each.key, outcome)
                check_budget(stage, run.skipped(stage), missing.total, budget, unit)
                task.advance(len(chunk))
            task.found(missing.found())
        finally:
            part.commit()


def check_budget(stage: str, skipped: Sequence[Skipped], total: int, budget: float, unit: str = "captions") -> None:
    """Stop when more than the share `budget` of `total` units is skipped.

    Raises:
        BudgetError: says how many, the reason met most often, and where it was met first.
    """
    if sum(each.count for each in skipped) > budget * total:
        raise BudgetError(
            f"{_describe(stage, skipped, total, unit)}; failure_budget is {budget:g}: mend that, or give a larger --set"
            f" failure_budget"
        )


def report_skipped(
    progress: Progress, stage: str, skipped: Sequence[Skipped], total: int, unit: str = "captions"
) -> None:
    """Say in one line how many of `total` units are skipped, and why; nothing where none is."""
    if skipped:
        progress.say(_describe(stage, skipped, total, unit))


def _describe(stage: str, skipped: Sequence[Skipped], total: int, unit: str) -> str:
    reasons: Counter[str] = Counter()
    for each in skipped:
        reasons[each.reason] += each.count
    reason, _ = reasons.most_common(1)[0]
    where = next((each.where for each in skipped if each.reason == reason and each.where), "")
    others = len(reasons) - 1
    more = f", and {others} other reason{'s' if others > 1 else ''}" if others else ""
    return f"{stage}: {reasons.total()} of {total} {unit} skipped: {reason}{f' ({where})' if where else ''}{more}"
