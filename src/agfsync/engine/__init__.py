"""Runs a stage's work: units that aren't done yet, in batches, committed part by part.

`process_units` applies a function in this process. `run_job` runs a `Job`, which loads a model and fits its batches
into memory, wherever the recipe's `engine` says.
"""

from agfsync.engine.jobs import SERVER, BatchFunction, Job, JobContext, Outcome, Sifted, Skip, Unit
from agfsync.engine.processing import PartWriter, check_budget, process_units, report_skipped
from agfsync.engine.running import run_job

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
