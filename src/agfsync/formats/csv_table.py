"""Comma-, tab- or semicolon-separated values: a prompt, or a question on one, in each row."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.paths import is_split_folder, read_split, text_files
from agfsync.formats.reading import read_header, read_table
from agfsync.formats.rows import find_column, parse_prompts

_ENDINGS = (".csv", ".tsv")


class CsvTable:
    """A CSV or TSV file, or a folder with one for each split."""

    title = "a CSV or TSV table"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return is_split_folder(path, _ENDINGS, _has_prompts)
        return path.suffix.lower() in _ENDINGS and _has_prompts(path)

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return parse_prompts(read_split(path, text_files(path, _ENDINGS), split, read_table))


def _has_prompts(path: Path) -> bool:
    return find_column(read_header(path)) is not None
