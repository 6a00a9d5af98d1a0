"""The training curves: one JSON line a step."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from agfsync.files.atomic import store_errors, write_atomic


class MetricsLog:
    """The file of metrics at `path`, cut back to the first `step` steps and open for the next."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(_lines_until(path, step)).encode())
        with store_errors(path):
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, figures: Mapping[str, float]) -> None:
        """Adds a step's line, at once readable by others."""
        with store_errors(self._path):
            self._file.write(json.dumps(figures) + "\n")
            self._file.flush()

    def flush(self) -> None:
        """Brings the lines onto the disk; before a checkpoint, which must not be ahead of them."""
        with store_errors(self._path):
            os.fsync(self._file.fileno())


def read_metrics(path: Path) -> Sequence[Mapping[str, float]]:
    """Each step's figures."""
    with store_errors(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _lines_until(path: Path, step: int) -> list[str]:
    """The whole lines of the first `step` steps: what was written after the checkpoint is about to be written again."""
    if step == 0 or not path.exists():
        return []
    with store_errors(path):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return lines[:step]
