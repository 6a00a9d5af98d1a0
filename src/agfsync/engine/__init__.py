"""The engine of a stage: it does the units that are missing, in batches, and commits their rows part by part.

`process_units` applies a function in this process. `run_job` runs a `Job`, which loads a model and fits its batches
into memory, in the workers of the recipe's `engine`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agfsync.engine.jobs import SERVER, BatchFunction, Job, JobContext, Outcome, Sifted, Skip, Unit
    from agfsync.engine.processing import PartWriter, check_budget, process_units, report_skipped
    from agfsync.engine.running import run_job

_PLACES = {
    **dict.fromkeys(("SERVER", "BatchFunction", "Job", "JobContext", "Outcome", "Sifted", "Skip", "Unit"), "jobs"),
    **dict.fromkeys(("PartWriter", "check_budget", "process_units", "report_skipped"), "processing"),
    "run_job": "running",
}

__all__ = [
    "SERVER",
    "BatchFunction",
    "Job",
    "JobContext",
    "Outcome",
    "PartWriter",
    "Sifted",
    "Skip",
    "Unit",
    "check_budget",
    "process_units",
    "report_skipped",
    "run_job",
]


def __getattr__(name: str) -> Any:
    # Imported when they are used: the command line reads `launcher` and `progress` alone, and --help answers at once.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"agfsync.engine.{_PLACES[name]}"), name)
