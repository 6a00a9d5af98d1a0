"""What isn't what was written in a run folder: seen, told and set aside, so that it is made anew."""

from pathlib import Path

from agfsync.engine.progress import Progress
from agfsync.errors import DamagedError
from agfsync.recipe import Recipe
from agfsync.store import Run
from agfsync.store.integrity import LOG, Damage

READ_AT_ONCE = 256 << 20
"""Bytes that every command holds against what was written, before anything else: a quarter of a second, about."""


def open_to_read(path: Path) -> Run:
    """The run at `path`, only to look; where its database is damaged, it is opened to be mended."""
    try:
        return Run.open(path)
    except DamagedError:
        Run.open(path, writing=True).close()
        raise


def quarantine_damage(run_: Run, recipe: Recipe, progress: Progress) -> None:
    """See what is damaged, before anything else, as far as that costs little."""
    if recipe.captions.writer.language_model is None:
        run_.declare_ordered("captions")  # What a language model wrote isn't thrown away: it would write other things.
    for damage in run_.verify(READ_AT_ONCE):
        progress.say(describe_damage(run_.path, damage))


def describe_damage(path: Path, damage: Damage) -> str:
    """The line on what isn't what was written in the run folder `path`, once it has been set aside."""
    if damage.path.endswith(LOG):
        return f"{path}/{damage}: put it back, or delete {path / damage.stage} to make it anew"
    return f"{path}/{damage}: it was quarantined, to be regenerated"
