"""Controls of a run: forks of it that train without its feedback, kept in its folder."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from agfsync.engine.progress import Progress
from agfsync.files.atomic import store_errors
from agfsync.pipeline.following import prepare
from agfsync.recipe import Recipe
from agfsync.stages.controls import locate_control, make_control_recipe
from agfsync.store import RECIPE, Run
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
        if (path / RECIPE).exists() and not _is_fork_of(path, run):
            with store_errors(path):
                shutil.rmtree(path)
        if not (path / RECIPE).exists():
            with store_errors(path):
                path.parent.mkdir(exist_ok=True)
            fork_open_run(run, path)
        progress.say(f"control {control}: trained and evaluated like this run")
        prepare(path, make_control_recipe(recipe, control), update=True)
        bring_up(path)


def _is_fork_of(path: Path, run: Run) -> bool:
    with closing(Run.open(path)) as fork:
        ours, theirs = ([each.find_finished(name) for name in SHARED] for each in (run, fork))
    return [ended and ended.mark for ended in ours] == [ended and ended.mark for ended in theirs]
