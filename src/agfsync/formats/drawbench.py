"""DrawBench: a table of prompts with their categories."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import Row, header, label, read_rows, table, text


class DrawBench:
    title = "DrawBench"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() == ".csv" and header(path) >= {"Prompts", "Category"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return read_rows(table(path), _read)


def _read(row: Row) -> list[Prompt]:
    return [Prompt(text(row, "Prompts"), label(row, "Category"))]
