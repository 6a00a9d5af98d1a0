"""DrawBench: a table of prompts with their categories."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import get_category, read_header, read_rows, read_table, require_text


class DrawBench:
    """The CSV file of DrawBench."""

    title = "DrawBench"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() == ".csv" and read_header(path) >= {"Prompts", "Category"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return read_rows(
            read_table(path), lambda row: [Prompt(require_text(row, "Prompts"), get_category(row, "Category"))]
        )
