"""Read text, JSON and tables a piece at a time, row by row with the place of each. No format of its own.

A row that can't be used is yielded as `LeftOut`, and the file goes on; a file that isn't what it should be is a
FormatError.
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

T = TypeVar("T")
K = TypeVar("K")

CHUNK = 1 << 16
"""Characters of JSON read at a time."""
BEGINNING = 1 << 16
"""Bytes by which an encoding or a delimiter is known."""
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks and the encodings that they tell; UTF-32's begins with UTF-16's."""
LOOKED_AT = 8
"""Rows by which a file is recognised: the first may be one that can't be used."""
DELIMITERS = (",", ";", "\t", "|")
EXCEL = re.compile(r"sep=(.)\s*")
"""A first line by which Excel is told the delimiter."""

csv.field_size_limit(1 << 30)


class UnusableRow(FormatError):
    """A row that can't be used, and why: what is raised while it is read, and counted by `read_rows`."""


class Row(dict[str, Any]):
    """A row of a file, and where it stands: `where` for messages, in the file `file`."""

    __slots__ = ("file", "where")

    def __init__(self, values: Mapping[str, Any], file: Path, where: str) -> None:
        super().__init__(values)
        self.file, self.where = file, where


Rows = Iterator[Row | LeftOut]


@contextmanager
def format_errors(path: Path) -> Iterator[None]:
    """Turn whatever shows that the file at `path` isn't what it should be into a FormatError."""
    try:
        yield
    except UnicodeDecodeError as failure:
        raise FormatError(f"{path}: isn't UTF-8 text{_likely(path)}: save it as UTF-8") from failure
    except OSError as failure:
        raise FormatError(f"{path}: can't be read: {failure.strerror or failure}") from failure
    except RecursionError as failure:
        raise FormatError(f"{path}: is nested deeper than any known format") from failure
    except (csv.Error, pa.ArrowException) as failure:
        raise FormatError(f"{path}: is damaged: {failure}: fetch it anew") from failure
    except (ValueError, ArithmeticError) as failure:
        # Such as a number of thousands of digits, or a date before the first year, which Python has none of.
        raise FormatError(f"{path}: holds what can't be read: {' '.join(str(failure).split())[:120]}") from failure


def encoding_of(beginning: bytes) -> str:
    """Return the encoding that the byte order mark at the `beginning` of a file tells; UTF-8 without one."""
    return next((encoding for mark, encoding in MARKS.items() if beginning.startswith(mark)), "utf-8")


def guess_encoding(beginning: bytes) -> str:
    """Return the likeliest encoding, in words, of text that isn't UTF-8 and has no mark; empty if it is no text."""
    pairs = max(len(beginning) // 2, 1)
    for place, name in ((1, "UTF-16 (little-endian)"), (0, "UTF-16 (big-endian)")):
        if beginning[place::2].count(0) > 0.7 * pairs and beginning[1 - place :: 2].count(0) < 0.1 * pairs:
            return f"{name} without a byte order mark"
    if re.search(rb"[\0-\x08\x0e-\x1f]", beginning):
        return ""
    high = [byte for byte in beginning if byte >= 0x80]
    if len(high) > 0.3 * len(beginning):
        return "an encoding of a language of its own, such as GB18030, Shift-JIS or Windows-1251"
    return "Windows-1252 or Latin-1"


def _likely(path: Path) -> str:
    with path.open("rb") as file:
        likely = guess_encoding(file.read(BEGINNING))
    return f", but likely {likely}" if likely else ""


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open the file at `path` as text in the encoding that its byte order mark tells, else as UTF-8.

    Raises:
        FormatError: it is UTF-16 without a mark, which would be taken for UTF-8 full of NULs.
    """
    with path.open("rb") as file:
        beginning = file.read(1024)
    encoding = encoding_of(beginning)
    if encoding == "utf-8" and (likely := guess_encoding(beginning)).startswith("UTF-16"):
        raise FormatError(f"{path}: is likely {likely}: save it as UTF-8")
    return path.open(encoding=encoding, newline=newline)


def json_items(path: Path, kind: type[T]) -> Iterator[T]:
    """Yield the items of the JSON list in a file, read as they are asked for; each must be a `kind`.

    Raises:
        FormatError: it isn't a list of those, or ends before it is over, or goes on behind its end.
    """
    for number, item in _items(path):
        if not isinstance(item, kind):
            raise FormatError(f"{path}: item {number} is a {type(item).__name__}, not a {kind.__name__}")
        yield item


def json_rows(path: Path, name: str = "") -> Rows:
    """Yield the objects of the JSON list in a file as rows; a text is a row with it under `name`, if that is given.

    Raises:
        FormatError: it isn't a list, or ends before it is over.
    """
    return (_row(item, path, f"item {number}", name) for number, item in _items(path))


def json_lines(path: Path, name: str = "") -> Rows:
    """Yield the objects in a file of JSON lines; empty lines are skipped. A text is a row with it under `name`.

    Raises:
        FormatError: the file can't be read.
    """
    with format_errors(path), open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _line(line, path, f"line {number}", name)


def _line(line: str, path: Path, where: str, name: str) -> Row | LeftOut:
    try:
        return _row(json.loads(line), path, where, name)
    except json.JSONDecodeError:
        return LeftOut("it isn't JSON", where)


def _row(item: Any, path: Path, where: str, name: str) -> Row | LeftOut:
    if isinstance(item, str) and name:
        item = {name: item}
    return Row(item, path, where) if isinstance(item, dict) else LeftOut("it is no object of names and values", where)


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    decoder, number = json.JSONDecoder(), 0
    with format_errors(path), open_text(path) as file:
        rest = file.read(CHUNK).lstrip()
        if not rest.startswith("["):
            raise FormatError(f"{path}: isn't a JSON list")
        rest = rest[1:]
        while not (rest := rest.lstrip().removeprefix(",").lstrip()).startswith("]"):
            try:
                item, end = decoder.raw_decode(rest)
            except json.JSONDecodeError as failure:
                # The item goes on beyond what is read, or it is none: the whole of the file tells.
                more = file.read(max(CHUNK, len(rest)))
                if not more:
                    raise FormatError(f"{path}: item {number + 1} isn't JSON, or the file is cut short") from failure
                rest += more
                continue
            number += 1
            yield number, item
            rest = rest[end:]
        if (rest[1:] + file.read(CHUNK)).strip():
            raise FormatError(f"{path}: goes on behind the end of its list")


def table(path: Path) -> Rows:
    """Yield the rows of a table with a header line: CSV, TSV, or separated by semicolons or bars.

    Raises:
        FormatError: a quotation mark is never closed.
    """
    with format_errors(path), open_text(path, newline="") as file:
        delimiter = _delimiter(file, path)
        # Tab-separated prompts are seldom quoted: a stray quotation mark is a part of them.
        reader = csv.reader(file, delimiter=delimiter, strict=delimiter != "\t")
        names = next(reader, [])
        while True:
            first = reader.line_num + 1
            try:
                values = next(reader, None)
            except csv.Error as failure:
                if "unexpected end of data" in str(failure):
                    raise FormatError(f"{path}: line {first}: a quotation mark is opened and never closed") from failure
                yield LeftOut(f"it isn't CSV ({failure})", f"line {first}")
                continue
            if values is None:
                return
            if values:
                yield _cells(names, values, delimiter, path, f"line {first}")


def _cells(names: list[str], values: list[str], delimiter: str, path: Path, where: str) -> Row | LeftOut:
    if not any(value.strip() for value in values):
        return LeftOut("empty row", where, failed=False)
    if len(names) == 1:
        # Whoever writes one column seldom quotes the commas in it.
        values = [delimiter.join(values)]
    if len(values) != len(names):
        return LeftOut("it isn't as wide as the header", where)
    return Row(dict(zip(names, values, strict=True)), path, where)


def header(path: Path) -> set[str]:
    """Return the column names of such a table; none where the file isn't one."""
    try:
        with open_text(path, newline="") as file:
            return set(next(csv.reader(file, delimiter=_delimiter(file, path), strict=True), ()))
    except (OSError, UnicodeError, csv.Error, FormatError):
        return set()


def _delimiter(file: TextIO, path: Path) -> str:
    """Return the delimiter of a table by its first line, after which `file` stands at the header."""
    line = file.readline(BEGINNING)
    if told := EXCEL.fullmatch(line):
        return told[1]
    file.seek(0)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max((usual, *DELIMITERS), key=unquoted.count)


def read_rows(rows: Iterable[Row | LeftOut], read: Callable[[Row], Iterable[T]]) -> Iterator[T | LeftOut]:
    """Yield what `read` makes of each row; one that can't be used is left out, with its reason and place."""
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


def group_rows(rows: Iterable[Row | LeftOut], key: Callable[[Row], K]) -> Iterator[tuple[K, list[Row]] | LeftOut]:
    """Yield neighbouring rows of one `key` together; one that has none (UnusableRow) is left out."""
    of: list[Row] = []
    last: list[K] = []
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        try:
            mine = key(row)
        except UnusableRow as failure:
            yield LeftOut(str(failure), row.where)
            continue
        if last and last[0] != mine:
            yield last[0], of
            of = []
        last = [mine]
        of.append(row)
    if last:
        yield last[0], of


def first(items: Iterator[T]) -> T | None:
    """Return the first of `items`, None where there is none or it can't be read: for recognising a file."""
    try:
        return next(items, None)
    except FormatError:
        return None


def first_row(rows: Rows) -> Mapping[str, Any]:
    """Return what the first rows say, of each name the first value that there is: for recognising a file."""
    found: dict[str, Any] = {}
    try:
        for row in islice(rows, LOOKED_AT):
            for name, value in row.items() if isinstance(row, Row) else ():
                if found.get(name) is None:
                    found[name] = value
    except FormatError:
        pass
    return found


def text(row: Mapping[str, Any], name: str) -> str:
    """Return what `row` says under `name`, on one line.

    Raises:
        UnusableRow: nothing, or no text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not one_line(value):
        raise UnusableRow(f"no text under '{name}'")
    return one_line(value)


def label(row: Mapping[str, Any], name: str | None) -> str:
    """Return what `row` says under `name` of where it belongs; `UNCATEGORISED` where there is no column or value."""
    value = None if name is None else row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        return UNCATEGORISED
    return one_line(str(value)) or UNCATEGORISED


def entries(row: Mapping[str, Any], name: str, length: int | None = None) -> list[Any]:
    """Return the list that `row` holds under `name`, which must have `length` items where that is given.

    Raises:
        UnusableRow: it holds none, or one of another length.
    """
    value = row.get(name)
    if not isinstance(value, list) or length not in (None, len(value)):
        raise UnusableRow(f"no list of the right length under '{name}'")
    return value
