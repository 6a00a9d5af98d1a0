"""Optional packages that only some settings need."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from agfsync.errors import RecipeError

QUANTIZED_BY = {"nf4": "bitsandbytes", "fp4": "bitsandbytes", "int8": "torchao", "fp8": "torchao"}
"""Quantization -> the package that implements it."""


def require_package(package: str, setting: str) -> None:
    """Check that `package`, which `setting` needs, is installed, without importing it.

    Raises:
        RecipeError: it is not installed.
    """
    if find_spec(package) is None:
        raise RecipeError(f"{setting} needs the package {package}: pip install {package}, or change the setting")


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of `training.trackers` are installed, without importing them.

    Raises:
        RecipeError: one is not installed.
    """
    for name in names:
        require_package(name, f"training.trackers {name}")


@contextmanager
def mute_libraries() -> Iterator[None]:
    """Keep warnings that libraries log out of the terminal; errors stay.

    diffusers, transformers, peft and accelerate import every installed optional package, even unused ones, and some of
    these log warnings when they are imported.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
