"""Packages that only some settings need, and that the project doesn't install by itself."""

from collections.abc import Sequence
from importlib.util import find_spec

from agfsync.errors import RecipeError


def need(package: str, setting: str) -> None:
    """See that `package`, which `setting` needs, is there; without importing it.

    Raises:
        RecipeError: it isn't.
    """
    if find_spec(package) is None:
        raise RecipeError(f"{setting} needs the package {package}: pip install {package}, or set it otherwise")


def need_trackers(names: Sequence[str]) -> None:
    """See that the packages of `training.trackers` are there; without importing them.

    Raises:
        RecipeError: one isn't.
    """
    for name in names:
        need(name, f"training.trackers {name}")
