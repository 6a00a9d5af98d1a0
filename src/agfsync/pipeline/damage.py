"""Damaged files of a run folder: detected, reported and quarantined, so that they are regenerated."""

from collections.abc import Sequence
from pathlib import Path

from agfsync.engine.progress import Progress
from agfsync.errors import DamagedError
from agfsync.recipe import Recipe
from agfsync.stages.written import name_written_table
from agfsync.store import Run
from agfsync.store.integrity import LOG, Damage
from agfsync.store.parts import MISSING

_LISTED = 5
"""damaged files that one line names"""
READ_AT_ONCE = 256 << 20
"""Bytes that every command verifies before anything else, which takes about a quarter of a second."""


def open_to_read(path: Path) -> Run:
    """Open the run at `path` for reading; if its database is damaged, open it for writing first, which repairs it."""
    try:
        return Run.open(path)
    except DamagedError:
        Run.open(path, writing=True).close()
        raise


def quarantine_damage(run_: Run, recipe: Recipe, progress: Progress) -> None:
    """Verify at most `READ_AT_ONCE` bytes, and report and quarantine damaged files."""
    declare_order(run_, recipe)
    for damage in run_.verify(READ_AT_ONCE):
        progress.say(describe_damage(run_.path, damage))


def declare_order(run_: Run, recipe: Recipe) -> None:
    """Declare that each of the writer's captions depends on those before it.

    Not for a language model: its later captions are kept, since it would write different ones.
    """
    if recipe.captions.writer.language_model is None:
        run_.declare_ordered(name_written_table(recipe.captions))


def describe_damage(path: Path, damage: Damage) -> str:
    """Return the line that reports a damaged file of the run folder `path`."""
    if damage.path.endswith(LOG):
        return f"{path}/{damage}: put it back, or delete {path / damage.stage} to regenerate it"
    if damage.fault == MISSING:
        return f"{path}/{damage}: it will be regenerated"
    return f"{path}/{damage}: it was quarantined, to be regenerated"


def describe_damages(path: Path, damages: Sequence[Damage]) -> str:
    """Return the line that reports the first few damaged files, and the number of further ones."""
    more = len(damages) - _LISTED
    lines = "; ".join(describe_damage(path, damage) for damage in damages[:_LISTED])
    return f"{lines}; and {more} more" if more > 0 else lines
