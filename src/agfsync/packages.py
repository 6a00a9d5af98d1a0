"""Packages that only some settings need, and that the project doesn't install by itself."""

from importlib.util import find_spec

from agfsync.errors import RecipeError


def need(package: str, setting: str) -> None:
    """See that `package`, which `setting` needs, is there; without importing it.

    Raises:
        RecipeError: it isn't.
    """
    if find_spec(package) is None:
        raise RecipeError(f"{setting} needs the package {package}: pip install {package}, or set it otherwise")
