"""A run's recipe: written when the run is created, read, and compared with a new recipe; and forks."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agfsync import __version__
from agfsync.engine.progress import Progress, SilentProgress
from agfsync.errors import RunError
from agfsync.files.atomic import store_errors
from agfsync.pipeline.checks import check_names
from agfsync.pipeline.damage import open_to_read
from agfsync.pipeline.pinning import list_unpinnable, pin_revisions
from agfsync.pipeline.precision import choose_dtypes, chosen_dtypes, describe_dtypes
from agfsync.recipe import Recipe, dump_recipe, load_recipe
from agfsync.stages import STAGES
from agfsync.stages.controls import locate_control, make_control_recipe
from agfsync.store import RECIPE, Run
from agfsync.store.forks import fork_open_run

SHARED = ("captions", "questions", "candidates", "scores")
"""The stages whose results a control shares with its run; a fork of other results is regenerated."""


def prepare(path: Path, recipe: Recipe, *, update: bool = False, progress: Progress | None = None) -> None:
    """Create the run at `path`, or check that it follows `recipe`; with `update` it follows it from now on.

    Raises:
        RunError: the run follows another recipe, with which a stage gives another result.
        RecipeError: the recipe has a type that isn't in the catalog. ModelError: a model of it is missing.
    """
    if not (path / RECIPE).exists():
        check_names(recipe)
        chosen = choose_dtypes(recipe)
        dtypes = chosen_dtypes(recipe, chosen)
        Run.create(path, _document_recipe(pin_revisions(chosen), dtypes)).close()
        if dtypes:
            (progress or SilentProgress()).say(
                f"auto: {describe_dtypes(dtypes)}; recipe.yaml in the run folder keeps it"
            )
        return
    with open_to_read(path) as run:
        before = read_recipe(run)
    recipe = pin_revisions(choose_dtypes(recipe, before), before)
    if recipe == before:
        return
    with Run.open(path, writing=True) as run:
        first_changed = next((s.name for s in STAGES if s.settings(before) != s.settings(recipe)), None)
        if first_changed is not None and not update:
            raise _explain_difference(path, before, recipe, first_changed)
        check_names(recipe)
        run.rewrite_recipe(_document_recipe(recipe))
    if first_changed is not None:
        (progress or SilentProgress()).say(f"{path} goes on with the new settings, from {first_changed}")


def bring_up_fork(path: Path, base: Run, shared: Iterable[str], fork: Callable[[], object]) -> bool:
    """Make sure that the run at `path` is a fork of `base`; return True if `fork` was called to create it.

    An existing fork is removed and regenerated if its `shared` stages have other results than those of `base`.
    """
    if (path / RECIPE).exists() and not _shares_results(path, base, shared):
        with store_errors(path):
            shutil.rmtree(path)
    if (path / RECIPE).exists():
        return False
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    fork()
    return True


def _shares_results(path: Path, base: Run, shared: Iterable[str]) -> bool:
    """Return True if no stage of `shared` has ended in both runs with different results."""
    with Run.open(path) as fork:
        ends = [(base.find_finished(name), fork.find_finished(name)) for name in shared]
    return all(ours is None or theirs is None or ours.mark == theirs.mark for ours, theirs in ends)


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


def read_recipe(run_: Run) -> Recipe:
    """Return the recipe that a run follows.

    Raises:
        RecipeError: the file was edited into something that isn't a recipe.
    """
    return load_recipe(run_.path / RECIPE)


def _explain_difference(path: Path, before: Recipe, after: Recipe, first_changed: str) -> RunError:
    old, new = _flatten_tree(before.model_dump(mode="json")), _flatten_tree(after.model_dump(mode="json"))
    keys = [key for key in old | new if old.get(key) != new.get(key)]
    shown = ", ".join(f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}" for key in keys[:3])
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return RunError(
        f"{path} was made with other settings ({shown}{more}): --update goes on with the new ones, from"
        f" {first_changed}, and keeps what they don't change; or choose another --out"
    )


def _flatten_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `tree` as `stage.key` -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten_tree(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _document_recipe(recipe: Recipe, dtypes: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the recipe with every default, after comments with package versions and the `dtypes` chosen for `auto`."""
    packages = ("torch", "diffusers", "transformers")
    versions = [f"agfsync {__version__}", *(f"{name} {_read_version(name)}" for name in packages)]
    commits = "".join(f"# {model} was at {commit}\n" for model, commit in list_unpinnable(recipe).items())
    chosen = f"# auto: {describe_dtypes(dtypes)}\n" if dtypes else ""
    return f"# {', '.join(versions)}\n{chosen}{commits}{dump_recipe(recipe)}"


def _read_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
