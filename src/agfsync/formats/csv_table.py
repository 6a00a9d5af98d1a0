"""Comma- or tab-separated values: a row a prompt, or a row a question on one."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt, rows
from agfsync.formats.reading import header, table

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class CsvTable:
    title = "a CSV or TSV table"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix not in DELIMITERS:
            return False
        return rows.column(header(path, DELIMITERS[path.suffix])) is not None

    def prompts(self, path: Path) -> Iterator[Prompt]:
        return rows.prompts(table(path, DELIMITERS[path.suffix]), path)
