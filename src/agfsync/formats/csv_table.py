"""Comma-, tab- or semicolon-separated values: a row a prompt, or a row a question on one."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.reading import header, table
from agfsync.formats.text_files import is_split_folder, text_rows

CSV_ENDINGS = (".csv", ".tsv")


class CsvTable:
    title = "a CSV or TSV table"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return is_split_folder(path, CSV_ENDINGS, _is_ours)
        return path.suffix.lower() in CSV_ENDINGS and _is_ours(path)

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return rows.prompts(text_rows(path, split, CSV_ENDINGS, table))


def _is_ours(path: Path) -> bool:
    return rows.column(header(path)) is not None
