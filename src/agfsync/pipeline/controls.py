"""Controls of a run: forks of it that train without its feedback, kept in its folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from agfsync.engine.progress import Progress
from agfsync.pipeline.following import bring_up_fork, prepare
from agfsync.recipe import Recipe
from agfsync.stages.controls import locate_control, make_control_recipe
from agfsync.store import Run
from agfsync.store.forks import fork_open_run

SHARED = ("captions", "questions", "candidates", "scores")
"""The stages whose results a control shares with its run; a fork of other results is made anew."""


def bring_up_controls(run: Run, recipe: Recipe, progress: Progress, bring_up: Callable[[Path], None]) -> None:
    """Fork the run for each of its controls and call `bring_up` on the fork, which runs it up to its evaluation.

    Raises:
        AgfsyncError: as a run does.
    """
    for control in recipe.evaluation.controls:
        path = locate_control(run.path, control)
        bring_up_fork(path, run, SHARED, partial(fork_open_run, run, path))
        progress.say(f"control {control}: trained and evaluated like this run")
        prepare(path, make_control_recipe(recipe, control), update=True)
        bring_up(path)
