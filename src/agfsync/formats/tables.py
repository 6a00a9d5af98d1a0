"""Plain files of prompts: text, JSON lines, JSON, CSV, Parquet; all except text may have categories and questions."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.paths import is_split_folder, read_split, text_files
from agfsync.formats.reading import (
    Row,
    Rows,
    format_errors,
    open_text,
    peek_row,
    read_header,
    read_json_lines,
    read_json_list,
    read_table,
)
from agfsync.formats.rows import OTHER_COLUMNS, PROMPT_COLUMNS, find_column, parse_prompts
from agfsync.records import one_line

_CSV_ENDINGS = (".csv", ".tsv")
_LINES_ENDINGS = (".jsonl", ".ndjson")


class TextLines:
    """A text file with a prompt in each line."""

    title = "plain text, a prompt a line"

    def recognises(self, path: Path) -> bool:
        """Return True for a file that ends in .txt."""
        return path.is_file() and path.suffix.lower() == ".txt"

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt]:
        """Yield a prompt for each non-empty line."""
        with format_errors(path), open_text(path) as file:
            yield from (Prompt(prompt) for line in file if (prompt := one_line(line)))


class JsonLines:
    """A file of JSON lines (objects or texts), or a folder with one for each split."""

    title = "JSON lines"

    def recognises(self, path: Path) -> bool:
        """Return True for JSON lines with a prompt, or a folder with a file of them for each split."""
        if path.is_dir():
            return is_split_folder(path, _LINES_ENDINGS, _has_prompt_lines)
        if not path.is_file() or path.suffix.lower() not in (*_LINES_ENDINGS, ".json"):
            return False
        # A single object in a .json file isn't a table, whatever its names.
        return _has_prompt_lines(path) and (path.suffix.lower() != ".json" or _has_two_lines(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts of the lines."""
        return parse_prompts(read_split(path, text_files(path, _LINES_ENDINGS), split, _read_lines))


class JsonList:
    """A JSON file with a list of objects or texts."""

    title = "a JSON list of prompts"

    def recognises(self, path: Path) -> bool:
        """Return True for a JSON list of texts, or of objects with a prompt."""
        # Some programs write a list to a file with the ending of JSON lines.
        if not path.is_file() or path.suffix.lower() not in (".json", *_LINES_ENDINGS):
            return False
        return find_column(peek_row(read_json_list(path, PROMPT_COLUMNS[0]))) is not None

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts of the items."""
        return parse_prompts(read_json_list(path, PROMPT_COLUMNS[0]))


class CsvTable:
    """A CSV or TSV file, or a folder with one for each split."""

    title = "a CSV or TSV table"

    def recognises(self, path: Path) -> bool:
        """Return True for a table with a prompt in its header, or a folder with one for each split."""
        if path.is_dir():
            return is_split_folder(path, _CSV_ENDINGS, _has_prompt_header)
        return path.suffix.lower() in _CSV_ENDINGS and _has_prompt_header(path)

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts of the rows."""
        return parse_prompts(read_split(path, text_files(path, _CSV_ENDINGS), split, read_table))


class ParquetTable:
    """A Parquet or Arrow file, or a folder of several, such as the captions of a run or a folder of `save_to_disk`."""

    title = "a Parquet or Arrow table of prompts"

    def recognises(self, path: Path) -> bool:
        """Return True for a table with a column of prompts."""
        return any(find_column(names) is not None for names in column_names(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts of the rows, reading no other columns."""
        wanted = {*PROMPT_COLUMNS, *OTHER_COLUMNS}
        # Other columns, such as images, are never read.
        there = [names for names in column_names(path) if find_column(names) is not None]
        columns = sorted({name for names in there for name in names if name.strip().casefold() in wanted})
        return parse_prompts(column_rows(path, columns, split, lambda names: find_column(names) is not None))


def _read_lines(path: Path) -> Rows:
    return read_json_lines(path, PROMPT_COLUMNS[0])


def _has_prompt_lines(path: Path) -> bool:
    return find_column(peek_row(_read_lines(path))) is not None


def _has_two_lines(path: Path) -> bool:
    try:
        first = list(islice(read_json_lines(path), 2))
    except FormatError:
        return False  # `near_misses` explains a file that no format recognises.
    return len(first) == 2 and all(isinstance(row, Row) for row in first)


def _has_prompt_header(path: Path) -> bool:
    return find_column(read_header(path)) is not None
