"""Reads text, JSON and CSV row by row, each row with its place. It isn't a format.

An unusable row is yielded as `LeftOut`, and reading continues. An invalid file raises FormatError.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

import pyarrow as pa

from agfsync.errors import FormatError
from agfsync.formats import UNCATEGORISED, LeftOut
from agfsync.records import one_line

_T = TypeVar("_T")
_K = TypeVar("_K")

BEGINNING = 1 << 16
"""Number of bytes to detect an encoding or a delimiter from."""
_CHUNK = 1 << 16
"""Number of characters of JSON to read at a time."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # Before UTF-16's mark, which UTF-32's begins with.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PEEKED_ROWS = 8
"""Number of rows to recognise a file by: the first may be unusable."""
_DELIMITERS = (",", ";", "\t", "|")
_EXCEL_DELIMITER = re.compile(r"sep=(.)\s*")
"""A first line that declares the delimiter for Excel."""

csv.field_size_limit(1 << 30)


class UnusableRow(FormatError):
    """A row can't be used; `read_rows` turns the error into a `LeftOut`."""


class Row(dict[str, Any]):
    """A row of the file `file`, with its place `where` for messages."""

    __slots__ = ("file", "where")

    def __init__(self, values: Mapping[str, Any], file: Path, where: str) -> None:
        super().__init__(values)
        self.file, self.where = file, where


Rows = Iterator[Row | LeftOut]


@contextmanager
def format_errors(path: Path) -> Iterator[None]:
    """Convert errors of reading an invalid file at `path` to FormatError."""
    try:
        yield
    except UnicodeDecodeError as failure:
        with path.open("rb") as file:
            likely = guess_encoding(file.read(BEGINNING))
        guess = f", but likely {likely}" if likely else ""
        raise FormatError(f"{path}: isn't UTF-8 text{guess}: save it as UTF-8") from failure
    except OSError as failure:
        raise FormatError(f"{path}: can't be read: {failure.strerror or failure}") from failure
    except RecursionError as failure:
        raise FormatError(f"{path}: is nested deeper than any known format") from failure
    except (csv.Error, pa.ArrowException) as failure:
        raise FormatError(f"{path}: is damaged: {failure}: fetch it again") from failure
    except (ValueError, ArithmeticError) as failure:
        # For example a number of thousands of digits, or a date before the year 1, which Python can't represent.
        raise FormatError(f"{path}: holds what can't be read: {' '.join(str(failure).split())[:120]}") from failure


def detect_encoding(beginning: bytes) -> str:
    """Return the encoding of the byte order mark in a file's `beginning`; UTF-8 if there is none."""
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), "utf-8")


def guess_encoding(beginning: bytes) -> str:
    """Describe the likeliest encoding of text that isn't UTF-8 and has no mark; return "" if it isn't text."""
    pairs = max(len(beginning) // 2, 1)
    for place, name in ((1, "UTF-16 (little-endian)"), (0, "UTF-16 (big-endian)")):
        if beginning[place::2].count(0) > 0.7 * pairs and beginning[1 - place :: 2].count(0) < 0.1 * pairs:
            return f"{name} without a byte order mark"
    if re.search(rb"[\0-\x08\x0e-\x1f]", beginning):
        return ""
    if sum(byte >= 0x80 for byte in beginning) > 0.3 * len(beginning):
        return "an encoding of a language of its own, such as GB18030, Shift-JIS or Windows-1251"
    return "Windows-1252 or Latin-1"


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open the file at `path` as text in the encoding of its byte order mark, or as UTF-8 if there is none.

    Raises:
        FormatError: the file is UTF-16 without a mark, which UTF-8 would read as text full of NULs.
    """
    with path.open("rb") as file:
        beginning = file.read(1024)
    encoding = detect_encoding(beginning)
    if encoding == "utf-8" and (likely := guess_encoding(beginning)).startswith("UTF-16"):
        raise FormatError(f"{path}: is likely {likely}: save it as UTF-8")
    return path.open(encoding=encoding, newline=newline)


def read_json_items(path: Path) -> Iterator[Any]:
    """Yield the items of the JSON list in a file, parsed lazily.

    The package ijson isn't suitable: it reads neither UTF-16 nor the NaN that Python and pandas write.

    Raises:
        FormatError: the file isn't a list, is cut short, or continues after the list.
    """
    decoder, number = json.JSONDecoder(), 1
    with format_errors(path), open_text(path) as file:
        rest = file.read(_CHUNK).lstrip()
        if not rest.startswith("["):
            raise FormatError(f"{path}: isn't a JSON list")
        rest = rest[1:]
        while not (rest := rest.lstrip().removeprefix(",").lstrip()).startswith("]"):
            try:
                item, end = decoder.raw_decode(rest)
            except json.JSONDecodeError as failure:
                # Either the item is longer than the text read so far, or it isn't JSON: only reading on tells which.
                more = file.read(max(_CHUNK, len(rest)))
                if not more:
                    raise FormatError(f"{path}: item {number} isn't JSON, or the file is cut short") from failure
                rest += more
                continue
            yield item
            number += 1
            rest = rest[end:]
        if (rest[1:] + file.read(_CHUNK)).strip():
            raise FormatError(f"{path}: goes on behind the end of its list")


def read_json_list(path: Path, name: str = "") -> Rows:
    """Yield the objects of the JSON list in a file as rows; with `name`, a text is a row with the column `name`.

    Raises:
        FormatError: see `read_json_items`.
    """
    return (_make_row(item, path, f"item {number}", name) for number, item in enumerate(read_json_items(path), 1))


def read_json_lines(path: Path, name: str = "") -> Rows:
    """Yield the objects in a file of JSON lines as rows; empty lines are skipped. For `name` see `read_json_list`.

    Raises:
        FormatError: the file can't be read.
    """
    with format_errors(path), open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _make_row(json.loads(line), path, f"line {number}", name)
                except json.JSONDecodeError:
                    yield LeftOut("it isn't JSON", f"line {number}")


def _make_row(item: Any, path: Path, where: str, name: str) -> Row | LeftOut:
    if isinstance(item, str) and name:
        item = {name: item}
    return Row(item, path, where) if isinstance(item, dict) else LeftOut("it is no object of names and values", where)


def read_table(path: Path) -> Rows:
    """Yield the rows of a table with a header: CSV, TSV, or with semicolons or bars as delimiters.

    Raises:
        FormatError: a quotation mark is never closed.
    """
    with format_errors(path), open_text(path, newline="") as file:
        delimiter = _detect_delimiter(file, path)
        # Prompts in TSV are rarely quoted, so a stray quotation mark is part of the prompt.
        reader = csv.reader(file, delimiter=delimiter, strict=delimiter != "\t")
        names = next(reader, [])
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader, None)
            except csv.Error as failure:
                if "unexpected end of data" in str(failure):
                    raise FormatError(f"{path}: line {line}: a quotation mark is opened and never closed") from failure
                yield LeftOut(f"it isn't CSV ({failure})", f"line {line}")
                continue
            if values is None:
                return
            if len(names) == 1 and any(value.strip() for value in values):
                # Commas in the only column of a table are rarely quoted.
                values = [delimiter.join(values)]
            if values and not any(value.strip() for value in values):
                yield LeftOut("empty row", f"line {line}", failed=False)
            elif len(values) == len(names):
                yield Row(dict(zip(names, values, strict=True)), path, f"line {line}")
            elif values:
                yield LeftOut("it isn't as wide as the header", f"line {line}")


def read_header(path: Path) -> set[str]:
    """Return the column names of a table as in `read_table`; none if the file isn't one."""
    try:
        with open_text(path, newline="") as file:
            return set(next(csv.reader(file, delimiter=_detect_delimiter(file, path), strict=True), ()))
    except (OSError, UnicodeError, csv.Error, FormatError):
        return set()


def _detect_delimiter(file: TextIO, path: Path) -> str:
    """Return the delimiter of a table from its first line, and leave `file` at the header."""
    line = file.readline(BEGINNING)
    if named := _EXCEL_DELIMITER.fullmatch(line):
        return named[1]
    file.seek(0)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    return max((usual, *_DELIMITERS), key=re.sub(r'"[^"]*"', "", line).count)


def read_rows(rows: Iterable[Row | LeftOut], read: Callable[[Row], Iterable[_T]]) -> Iterator[_T | LeftOut]:
    """Yield the results of `read` for each row; a row is left out if `read` raises UnusableRow."""
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        try:
            found = list(read(row))
        except UnusableRow as failure:
            yield LeftOut(str(failure), row.where)
        else:
            yield from found


def group_rows(rows: Iterable[Row | LeftOut], key: Callable[[Row], _K]) -> Iterator[tuple[_K, list[Row]] | LeftOut]:
    """Group consecutive rows with the same `key`; a row is left out if `key` raises UnusableRow."""
    group: tuple[_K, list[Row]] | None = None
    for found in read_rows(rows, lambda row: [(key(row), row)]):
        if isinstance(found, LeftOut):
            yield found
        elif group is not None and group[0] == found[0]:
            group[1].append(found[1])
        else:
            if group is not None:
                yield group
            group = (found[0], [found[1]])
    if group is not None:
        yield group


def peek_row(rows: Rows) -> Mapping[str, Any]:
    """Return the first value of each column in the first rows, to recognise a file; empty if it can't be read."""
    found: dict[str, Any] = {}
    try:
        for row in islice(rows, _PEEKED_ROWS):
            for name, value in row.items() if isinstance(row, Row) else ():
                if found.get(name) is None:
                    found[name] = value
    except FormatError:
        pass  # `near_misses` explains a file that no format recognises; reading one that is raises this again.
    return found


def require_text(row: Mapping[str, Any], name: str) -> str:
    """Return the text in the column `name`, on one line.

    Raises:
        UnusableRow: there is none.
    """
    value = row.get(name)
    if not isinstance(value, str) or not one_line(value):
        raise UnusableRow(f"no text under '{name}'")
    return one_line(value)


def require_list(row: Mapping[str, Any], name: str, length: int | None = None) -> list[Any]:
    """Return the list in the column `name`, of `length` items if that is given.

    Raises:
        UnusableRow: there is none, or it has another length.
    """
    value = row.get(name)
    if not isinstance(value, list) or length not in (None, len(value)):
        raise UnusableRow(f"no list of the right length under '{name}'")
    return value


def get_category(row: Mapping[str, Any], name: str | None) -> str:
    """Return the category in the column `name`; `UNCATEGORISED` if there is no such column or value."""
    value = None if name is None else row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        return UNCATEGORISED
    return one_line(str(value)) or UNCATEGORISED
