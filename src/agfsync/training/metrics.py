"""The training curves: a file with one JSON line per step."""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from agfsync.files.atomic import store_errors, write_atomic


class MetricsLog:
    """The metrics file at `path`, truncated to the lines up to `step` and opened for appending."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(_read_lines_until(path, step)).encode())
        with store_errors(path):
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, figures: Mapping[str, float]) -> None:
        """Append the line of a step and flush it, so that other programs can read it at once."""
        with store_errors(self._path):
            self._file.write(json.dumps(figures) + "\n")
            self._file.flush()

    def flush(self) -> None:
        """Sync the lines to the disk, before a checkpoint is saved, so that no checkpoint is ahead of the log."""
        with store_errors(self._path):
            os.fsync(self._file.fileno())


def read_metrics(path: Path) -> Sequence[Mapping[str, float]]:
    """Return the figures of each step; the first is step 0, before any update, if the base was measured."""
    with store_errors(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_lines_until(path: Path, step: int) -> list[str]:
    """Return the lines up to `step`, none for 0; the resumed training writes the later ones again."""
    if step == 0 or not path.exists():
        return []
    with store_errors(path):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return list(takewhile(lambda line: line.endswith("\n") and json.loads(line)["step"] <= step, lines))
