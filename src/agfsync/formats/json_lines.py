"""JSON lines: an object a prompt, with its category and questions where it has them."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt, rows
from agfsync.formats.reading import first, json_lines


class JsonLines:
    title = "JSON lines"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix not in (".jsonl", ".ndjson"):
            return False
        return rows.column(first(json_lines(path)) or ()) is not None

    def prompts(self, path: Path) -> Iterator[Prompt]:
        return rows.prompts(json_lines(path), path)
