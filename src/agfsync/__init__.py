"""Align text-to-image diffusion models with AI feedback, without a human label.

>>> import agfsync
>>> run = agfsync.run("shapes", "runs/first")  # doctest: +SKIP
>>> run.pairs[0].explain()  # doctest: +SKIP
>>> run.model().draw(["a red heart"], seeds=[0])  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agfsync.api import (
        Explanation,
        LoadedRun,
        Model,
        RunCandidate,
        RunPair,
        Scorer,
        Table,
        compare,
        doctor,
        export,
        fork,
        load_run,
        run,
    )
    from agfsync.errors import (
        AgfsyncError,
        BudgetError,
        DivergedError,
        FormatError,
        ModelError,
        OutOfMemoryError,
        RecipeError,
        RunError,
        StoreError,
    )
    from agfsync.recipe import Recipe

__version__ = "0.2.0.dev0"
__all__ = [
    "AgfsyncError",
    "BudgetError",
    "DivergedError",
    "Explanation",
    "FormatError",
    "LoadedRun",
    "Model",
    "ModelError",
    "OutOfMemoryError",
    "Recipe",
    "RecipeError",
    "RunCandidate",
    "RunError",
    "RunPair",
    "Scorer",
    "StoreError",
    "Table",
    "compare",
    "doctor",
    "export",
    "fork",
    "load_run",
    "run",
]


def __getattr__(name: str) -> Any:
    # Imported when they are used, so that `import agfsync` takes no time.
    if name not in __all__:
        raise AttributeError(f"module 'agfsync' has no attribute {name!r}")
    place = "agfsync.recipe" if name == "Recipe" else "agfsync.errors" if name.endswith("Error") else "agfsync.api"
    return getattr(import_module(place), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
