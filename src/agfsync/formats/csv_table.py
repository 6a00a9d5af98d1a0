"""Comma-, tab- or semicolon-separated values: a row a prompt, or a row a question on one."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.reading import header, table

CSV_ENDINGS = (".csv", ".tsv")


class CsvTable:
    title = "a CSV or TSV table"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in CSV_ENDINGS and rows.column(header(path)) is not None

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return rows.prompts(table(path))
