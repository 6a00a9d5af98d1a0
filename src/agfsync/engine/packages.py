"""Optional packages, which only some settings need."""

from collections.abc import Sequence
from importlib.util import find_spec

from agfsync.errors import RecipeError

QUANTIZED_BY = {"nf4": "bitsandbytes", "fp4": "bitsandbytes", "int8": "torchao", "fp8": "torchao"}
"""The package that stores weights so."""


def require_package(package: str, setting: str) -> None:
    """Check that `package`, which `setting` needs, is installed, without importing it.

    Raises:
        RecipeError: it is not installed.
    """
    if find_spec(package) is None:
        raise RecipeError(f"{setting} needs the package {package}: pip install {package}, or set it otherwise")


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of `training.trackers` are installed, without importing them.

    Raises:
        RecipeError: one is not installed.
    """
    for name in names:
        require_package(name, f"training.trackers {name}")
