"""DrawBench: a table of prompts with their categories."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import get_category, read_header, read_rows, read_table, require_text


class DrawBench:
    """The CSV file of DrawBench."""

    title = "DrawBench"

    def recognises(self, path: Path) -> bool:
        """Return True for a CSV with the columns Prompts and Category."""
        return path.is_file() and path.suffix.lower() == ".csv" and read_header(path) >= {"Prompts", "Category"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts with their categories."""
        return read_rows(
            read_table(path), lambda row: [Prompt(require_text(row, "Prompts"), get_category(row, "Category"))]
        )
