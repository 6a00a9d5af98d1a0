"""Stand-ins for models, which every test finds by their entry points, and a quick recipe that uses them."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agfsync.engine.progress import SilentProgress
from agfsync.recipe import Recipe, check, dump
from agfsync.stages import Context
from agfsync.store import Run

sys.path.insert(0, str(Path(__file__).parent / "tests" / "plugins"))

QUICK: Mapping[str, Any] = {
    "name": "quick",
    "captions": {"writer": "double", "count": 12, "held_out": 5},
    "questions": {"writer": "double", "rounds": 2},
    "candidates": {"generator": {"type": "double", "model": "none"}, "per_caption": 4},
    "scores": {
        "scorers": {"red": {"type": "double", "model": "none"}, "vqa": {"type": "asking", "model": "none"}},
        "batch": 7,
    },
    "pairs": {"weights": {"red": 1.0, "vqa": 0.5}},
    "training": {"precision": "fp32"},
}


def quick(**changes: Any) -> Recipe:
    """The quick recipe; `changes` replace values, or keys of its sections."""
    tree = dict(QUICK)
    for name, change in changes.items():
        tree[name] = {**tree.get(name, {}), **change} if isinstance(change, dict) else change
    return check(tree, "quick")


@pytest.fixture
def make_recipe() -> Any:
    """`quick`."""
    return quick


@pytest.fixture
def recipe() -> Recipe:
    return quick()


@pytest.fixture
def context(tmp_path: Path, recipe: Recipe) -> Iterator[Context]:
    """A run of the quick recipe in which nothing is done yet."""
    with Run.create(tmp_path / "run", dump(recipe)) as run:
        yield Context(run, recipe, SilentProgress())


@pytest.fixture
def loaded() -> list[str]:
    """Models that the stand-ins loaded, in order."""
    import doubles

    models: list[str] = doubles.LOADED
    models.clear()
    return models
