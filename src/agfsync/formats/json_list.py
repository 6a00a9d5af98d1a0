"""A JSON list of prompts: texts, or objects with the prompt, its category and questions where they have them."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.reading import first_row, json_rows


class JsonList:
    title = "a JSON list of prompts"

    def recognises(self, path: Path) -> bool:
        """Also under the ending of JSON lines, where some programs write a list."""
        if not path.is_file() or path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
            return False
        return rows.column(first_row(json_rows(path, rows.TEXTS[0]))) is not None

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return rows.prompts(json_rows(path, rows.TEXTS[0]))
