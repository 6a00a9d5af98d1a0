"""MJHQ-30K (arXiv:2402.17245): a JSON object that maps an image's name to its prompt and category."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import (
    BEGINNING,
    Row,
    Rows,
    format_errors,
    get_category,
    open_text,
    read_rows,
    require_text,
)

_FIRST_NAME = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*')


class MJHQ:
    """MJHQ-30K's `meta_data.json`."""

    title = "MJHQ-30K"

    def recognises(self, path: Path) -> bool:
        """Return True for a JSON object whose first value is an object with a prompt and a category."""
        if not path.is_file() or path.suffix.lower() != ".json":
            return False
        try:
            with format_errors(path), open_text(path) as file:
                beginning = file.read(BEGINNING)
            name = _FIRST_NAME.match(beginning)
            first = json.JSONDecoder().raw_decode(beginning, name.end())[0] if name else None
        except (FormatError, ValueError, RecursionError):
            return False  # `near_misses` explains a file that no format recognises.
        return isinstance(first, dict) and first.keys() >= {"prompt", "category"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts with their categories."""
        return read_rows(
            _read_objects(path), lambda row: [Prompt(require_text(row, "prompt"), get_category(row, "category"))]
        )


def _read_objects(path: Path) -> Rows:
    with format_errors(path), open_text(path) as file:
        found = json.load(file)
    for name, value in found.items():
        is_row = isinstance(value, dict)
        yield Row(value, path, f"'{name}'") if is_row else LeftOut("it is no object of names and values", f"'{name}'")
