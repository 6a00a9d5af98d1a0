"""Stand-ins for models, which every test finds by their entry points, and a quick recipe that uses them."""

import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from agfsync.engine.progress import SilentProgress
from agfsync.recipe import Recipe, check_recipe, dump_recipe
from agfsync.records import digest
from agfsync.stages.context import Context
from agfsync.store import Run

sys.path.insert(0, str(Path(__file__).parent / "tests" / "plugins"))


def pytest_collection_finish() -> None:
    """Set what the tests have imported apart from garbage: each of the many collections would look through it all."""
    gc.collect()
    gc.freeze()


QUICK: Mapping[str, Any] = {
    "name": "quick",
    "captions": {"writer": "double", "count": 12, "held_out": 5},
    "questions": {"writer": "double", "rounds": 2},
    "model": {"type": "double", "path": "none"},
    "candidates": {"per_caption": 4},
    "scorers": {"red": {"type": "double", "path": "none"}, "vqa": {"type": "asking", "path": "none"}},
    "scores": {"batch": 7},
    "pairs": {"choose": {"weights": {"red": 1.0, "vqa": 0.5}}},
    "training": {"precision": "fp32"},
}


def quick(judges: Mapping[str, Any] = MappingProxyType({}), **changes: Any) -> Recipe:
    """Return the quick recipe; `changes` replace values, the model and the scorers, or keys of other sections.

    All scorers judge the candidates; `judges` are scorers of the evaluation alone.
    """
    tree = dict(QUICK)
    for name, change in changes.items():
        merges = isinstance(change, dict) and name not in ("model", "scorers")
        tree[name] = {**tree.get(name, {}), **change} if merges else change
    tree["scores"] = {"by": list(tree["scorers"]), **tree["scores"]}
    tree["scorers"] = {**tree["scorers"], **judges}
    return check_recipe(tree, "quick")


@pytest.fixture
def make_recipe() -> Any:
    """`quick`."""
    return quick


@pytest.fixture
def recipe() -> Recipe:
    return quick()


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the quick recipe that `paired_run` copies."""
    from agfsync import pipeline

    path = tmp_path_factory.mktemp("quick") / "run"
    pipeline.prepare(path, quick())
    pipeline.run(path, until="pairs")
    return path


@pytest.fixture
def paired_run(quick_run: Path, tmp_path: Path) -> Path:
    """A run of the quick recipe that is done up to its pairs."""
    return Path(shutil.copytree(quick_run, tmp_path / "run"))


@pytest.fixture
def context(tmp_path: Path, recipe: Recipe) -> Iterator[Context]:
    """A run of the quick recipe in which nothing is done yet."""
    with Run.create(tmp_path / "run", dump_recipe(recipe)) as run:
        yield Context(run, recipe, SilentProgress())


@pytest.fixture
def open_done(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Context]]:
    """Opens a run of a recipe in which some stages are done: the test's own copy of one that is made once."""
    opened: list[Run] = []

    def open_copy(recipe: Recipe, *stages: str) -> Context:
        made = tmp_path_factory.getbasetemp() / f"done-{digest(dump_recipe(recipe), stages)}"
        if not made.exists():
            beside = tmp_path_factory.mktemp("making") / "run"
            with Run.create(beside, dump_recipe(recipe)) as run:
                for stage in stages:
                    import_module(f"agfsync.stages.{stage}").run(Context(run, recipe, SilentProgress(), "digest"))
            beside.rename(made)
        opened.append(Run.open(Path(shutil.copytree(made, tmp_path / "run")), writing=True))
        return Context(opened[-1], recipe, SilentProgress(), "digest")

    yield open_copy
    for run in opened:
        run.close()


@pytest.fixture
def loaded() -> list[str]:
    """Models that the stand-ins loaded, in order."""
    import doubles

    models: list[str] = doubles.LOADED
    models.clear()
    return models
