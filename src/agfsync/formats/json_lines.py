"""JSON lines: a prompt in each, as an object with its category and questions, or as a text."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt
from agfsync.formats.paths import is_split_folder, read_split, text_files
from agfsync.formats.reading import Row, Rows, peek_row, read_json_lines
from agfsync.formats.rows import PROMPT_COLUMNS, find_column, parse_prompts

_ENDINGS = (".jsonl", ".ndjson")


class JsonLines:
    """A file of JSON lines, or a folder with one for each split."""

    title = "JSON lines"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return is_split_folder(path, _ENDINGS, _has_prompts)
        if not path.is_file() or path.suffix.lower() not in (*_ENDINGS, ".json"):
            return False
        # A single object under .json is no table, whatever its names.
        return _has_prompts(path) and (path.suffix.lower() != ".json" or _has_two_rows(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return parse_prompts(read_split(path, text_files(path, _ENDINGS), split, _read))


def _read(path: Path) -> Rows:
    return read_json_lines(path, PROMPT_COLUMNS[0])


def _has_prompts(path: Path) -> bool:
    return find_column(peek_row(_read(path))) is not None


def _has_two_rows(path: Path) -> bool:
    try:
        first = list(islice(read_json_lines(path), 2))
    except FormatError:
        return False
    return len(first) == 2 and all(isinstance(row, Row) for row in first)
