"""The Python API: run a recipe, read a run, draw and score. `agfsync` exports these names.

>>> import agfsync
>>> run = agfsync.run("shapes", "runs/first")  # doctest: +SKIP
>>> run.pairs.to_pandas()  # doctest: +SKIP
>>> run.pairs[0].explain()  # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agfsync import pipeline
from agfsync.api.models import Model, Scorer
from agfsync.api.runs import LoadedRun
from agfsync.api.tables import Explanation, RunCandidate, RunPair, Table
from agfsync.commands.export import export_pairs
from agfsync.engine.progress import SilentProgress, make_progress
from agfsync.recipe import Recipe, resolve_recipe
from agfsync.store.forks import fork_run
from agfsync.study.rounds import run_with_rounds

if TYPE_CHECKING:
    from agfsync.commands.doctor.page import Examination

__all__ = [
    "Explanation",
    "LoadedRun",
    "Model",
    "RunCandidate",
    "RunPair",
    "Scorer",
    "Table",
    "compare",
    "doctor",
    "export",
    "fork",
    "load_run",
    "run",
]


def run(
    recipe: str | Path | Recipe,
    path: str | Path | None = None,
    *,
    until: str | None = None,
    update: bool = False,
    progress: bool = True,
) -> "LoadedRun":
    """Run the stages of a recipe that aren't up to date, and return the run.

    Args:
        recipe: the name of a shipped recipe, a file, or a `Recipe`.
        path: the run's folder; default: runs/NAME.
        until: the last stage to run, such as "pairs".
        update: continue the run with changed settings.
        progress: show progress bars, in a terminal or a notebook.

    Raises:
        AgfsyncError: an error that the caller can fix, in one line: a `RecipeError`, `ModelError` or another kind.
    """
    recipe = recipe if isinstance(recipe, Recipe) else resolve_recipe(str(recipe))
    folder = Path(path) if path is not None else Path("runs") / recipe.name
    shown = make_progress() if progress else SilentProgress()
    pipeline.prepare(folder, recipe, update=update, progress=shown)
    run_with_rounds(folder, until=until, progress=shown)
    return load_run(folder)


def load_run(path: str | Path) -> "LoadedRun":
    """Return the run at `path` for reading, without a lock: another process may work on it.

    Raises:
        RunError: there is no run.
    """
    loaded = LoadedRun(Path(path))
    _ = loaded.recipe
    return loaded


def fork(base: "str | Path | LoadedRun", to: str | Path) -> "LoadedRun":
    """Create a run at `to` that shares the results of the run `base`: nothing is drawn or scored again.

    Raises:
        RunError: `to` exists, `base` isn't a run, or a process works on it.
    """
    fork_run(_find_folder(base), Path(to))
    return load_run(to)


def export(run: "str | Path | LoadedRun", format: str, out: str | Path) -> Mapping[str, int]:
    """Write a run's pairs into the new folder `out`, in a format such as "pick-a-pic"; return the counts.

    Raises:
        RunError: the run has no pairs. FormatError: there is no such format. StoreError: `out` exists.
    """
    return export_pairs(_find_folder(run), format, Path(out))


def compare(
    base: str | Path,
    other: str | Path,
    path: str | Path | None = None,
    *,
    sets: Sequence[str] = (),
    judges: Sequence[str] = (),
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    update: bool = False,
    progress: bool = True,
) -> "LoadedRun":
    """Compare two models, LoRAs or runs on the same prompts and seeds, as `agfsync compare`; return the run.

    Raises:
        AgfsyncError: an error that the caller can fix, in one line.
    """
    from agfsync.commands.compare import plan_comparison, prepare_comparison

    plan = plan_comparison(str(base), str(other), recipe=recipe, sets=sets, judges=judges, overrides=overrides)
    folder = Path(path) if path is not None else Path("runs") / plan.recipe.name
    shown = make_progress() if progress else SilentProgress()
    prepare_comparison(folder, plan, update=update, progress=shown)
    pipeline.run(folder, progress=shown)
    return load_run(folder)


def doctor(recipe: str | Path | Recipe, path: str | Path | None = None) -> "Examination":
    """Return what a run of `recipe` at `path` would need, and what is missing for it; nothing is run."""
    from agfsync.commands.doctor import examine

    recipe = recipe if isinstance(recipe, Recipe) else resolve_recipe(str(recipe))
    return examine(recipe, Path(path) if path is not None else Path("runs") / recipe.name)


def _find_folder(run: str | Path | LoadedRun) -> Path:
    return run.path if isinstance(run, LoadedRun) else Path(run)
