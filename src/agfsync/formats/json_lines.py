"""JSON lines: an object a prompt, with its category and questions where it has them; or a text a prompt."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.reading import Row, json_lines


class JsonLines:
    title = "JSON lines"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
            return False
        # One object by itself under .json is no table, whatever its names.
        least = 2 if path.suffix.lower() == ".json" else 1
        try:
            first = list(islice(json_lines(path, rows.TEXTS[0]), least))
        except FormatError:
            return False
        return len(first) == least and all(
            isinstance(row, Row) and rows.column(row) is not None for row in (first if least > 1 else first[:1])
        )

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return rows.prompts(json_lines(path, rows.TEXTS[0]))
