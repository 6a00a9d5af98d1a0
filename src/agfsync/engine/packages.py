"""Optional packages, which only some settings need."""

import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

from agfsync.errors import RecipeError

_LIBRARIES = ("accelerate", "diffusers", "peft", "transformers")
"""Libraries that import every optional package that is installed, whether or not anything asks for it."""

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


def silence_library_imports() -> None:
    """Have `_LIBRARIES`, and what they import, print and log nothing below an error while they are imported."""
    if not any(isinstance(each, _LibraryFinder) for each in sys.meta_path):
        sys.meta_path.insert(0, _LibraryFinder())


class _LibraryFinder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _LIBRARIES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            # Of this loader alone: its class also has the methods that find sources and data files.
            spec.loader.exec_module = _silenced(spec.loader.exec_module)  # type: ignore[assignment]
        return spec


def _silenced(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_silently(module: ModuleType) -> None:
        with _SILENCE.held():
            execute(module)

    return execute_silently


class _Silence:
    """Nothing is printed as long as one thread or more hold it; what stood before is restored by the last."""

    def __init__(self) -> None:
        self._lock, self._holders, self._restore = RLock(), 0, ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._restore.close()

    def _begin(self) -> None:
        self._restore.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        self._restore.enter_context(redirect_stdout(io.StringIO()))
        self._restore.enter_context(redirect_stderr(io.StringIO()))


_SILENCE = _Silence()
