"""Runs a stage's work: what isn't done yet, in batches, committed part by part.

`process` does it by a function in this process. `carry_out` does a `Job`, which loads a model and fits its batches into
the memory that there is, wherever the recipe's `engine` says.
"""

from agfsync.engine.carrying_out import carry_out
from agfsync.engine.part import Part
from agfsync.engine.processing import check_budget, process, report_skipped
from agfsync.engine.work import SERVER, Desk, Job, Outcome, Sifted, Skip, Unit, Work

__all__ = [
    "SERVER",
    "Desk",
    "Job",
    "Outcome",
    "Part",
    "Sifted",
    "Skip",
    "Unit",
    "Work",
    "carry_out",
    "check_budget",
    "process",
    "report_skipped",
]
