"""JSON lines: an object a prompt, with its category and questions where it has them; or a text a prompt."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.reading import Row, first_row, json_lines
from agfsync.formats.text_files import is_split_folder, text_rows

LINES_ENDINGS = (".jsonl", ".ndjson")


class JsonLines:
    title = "JSON lines"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return is_split_folder(path, LINES_ENDINGS, _is_ours)
        if not path.is_file() or path.suffix.lower() not in (*LINES_ENDINGS, ".json"):
            return False
        # One object by itself under .json is no table, whatever its names.
        return _is_ours(path) and (path.suffix.lower() != ".json" or _has_two(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        read = partial(json_lines, name=rows.TEXTS[0])
        return rows.prompts(text_rows(path, split, LINES_ENDINGS, read))


def _is_ours(path: Path) -> bool:
    return rows.column(first_row(json_lines(path, rows.TEXTS[0]))) is not None


def _has_two(path: Path) -> bool:
    try:
        first = list(islice(json_lines(path), 2))
    except FormatError:
        return False
    return len(first) == 2 and all(isinstance(row, Row) for row in first)
