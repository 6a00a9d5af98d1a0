"""Why a file or folder is of no known format: the likeliest reason, and what to do. No format of its own."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.errors import FormatError
from agfsync.formats.captioned import is_picture
from agfsync.formats.columns import TABLE_ENDINGS, column_names, table_files
from agfsync.formats.folders import SIDE_NAMES
from agfsync.formats.pairing import LINK, kind_of
from agfsync.formats.reading import (
    BEGINNING,
    encoding_of,
    first,
    first_row,
    guess_encoding,
    header,
    json_items,
    json_lines,
    json_rows,
)
from agfsync.formats.walking import is_hidden, walk_files

BEGINS = {
    b"\x1f\x8b": "it is compressed (gzip): unpack it",
    b"\x28\xb5\x2f\xfd": "it is compressed (Zstandard): unpack it",
    b"BZh": "it is compressed (bzip2): unpack it",
    b"\xfd7zXZ\0": "it is compressed (xz): unpack it",
    b"\x04\x22\x4d\x18": "it is compressed (LZ4): unpack it",
    b"7z\xbc\xaf\x27\x1c": "it is a 7z archive: unpack it, and name the folder",
    b"Rar!": "it is a RAR archive: unpack it, and name the folder",
    b"PK\x03\x04": "it is a ZIP archive: unpack it, and name the folder",
    b"\xd0\xcf\x11\xe0": "it is an Excel or Word file: save it as CSV (UTF-8)",
    b"SQLite format 3": "it is a SQLite database: write its table as CSV",
    b"\x89HDF": "it is an HDF5 file: write its table as Parquet or CSV",
    b"\x80\x04\x95": "it is a pickle, which is never opened: write it as Parquet or CSV",
    b"\x89PNG": "it is a picture: name the folder of winners and losers",
    b"\xff\xd8\xff": "it is a picture: name the folder of winners and losers",
    b"RIFF": "it is a picture: name the folder of winners and losers",
    b"version https://git-lfs": "it is a Git LFS pointer: fetch the file itself",
}
TAR = (257, b"ustar")
WORKBOOKS = (".xlsx", ".xlsm", ".ods")
TEXT_ENDINGS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
WANTED = (
    "prompts are looked for under prompt, prompts, caption, captions or text; pairs under caption, jpg_0, jpg_1,"
    " label_0 and label_1, or prompt, chosen and rejected"
)
NAMES_SHOWN = 8
"""names that a message shows"""


def why_unknown(path: Path) -> str:
    """Return the likeliest reason why no format recognises what is at `path`; empty if nothing stands out."""
    try:
        return _folder(path) if path.is_dir() else _file(path)
    except OSError as failure:
        return f"it can't be read: {failure.strerror or failure}"
    except FormatError as failure:
        return str(failure).removeprefix(f"{path}: ")


def _file(path: Path) -> str:
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    ending = path.suffix.lower()
    if not beginning:
        return "it is empty"
    if ending in WORKBOOKS:
        return "it is an Excel workbook: save it as CSV (UTF-8)"
    for begins, reason in BEGINS.items():
        if beginning.startswith(begins):
            return reason
    if beginning[TAR[0] :].startswith(TAR[1]):
        return "it is a TAR archive: unpack it, and name the folder"
    if len(beginning) < 512 and LINK.fullmatch(beginning):
        return "it is a link that was copied as a file: copy the folder with its links"
    if beginning.startswith((b"PAR1", b"ARROW1")) or ending in TABLE_ENDINGS:
        return _columns_of(path)
    if kind_of(beginning):
        return kind_of(beginning).partition(": ")[2]
    return _encoding(beginning) or _text(path, ending)


def _encoding(beginning: bytes) -> str:
    try:
        # The last character of the beginning may be cut.
        beginning.decode(encoding_of(beginning), errors="strict")
    except UnicodeDecodeError as failure:
        if failure.start < len(beginning) - 4 or len(beginning) < BEGINNING:
            likely = guess_encoding(beginning)
            return f"it isn't UTF-8 text, but likely {likely}: save it as UTF-8" if likely else "it is no text"
    likely = guess_encoding(beginning)
    return f"it is likely {likely}: save it as UTF-8" if likely.startswith("UTF-16") else ""


def _text(path: Path, ending: str) -> str:
    if ending in (".csv", ".tsv"):
        names = header(path)
        return _columns(names) if names else "it has no header that can be read as a table's"
    if ending in (".jsonl", ".ndjson", ".json"):
        return _json(path)
    if ending not in TEXT_ENDINGS:
        called = f"'{ending}' is no ending of a known format" if ending else "its name has no ending"
        return f"{called}: call plain text, a prompt a line, .txt, and a table .csv, .jsonl or .parquet"
    return ""


def _json(path: Path) -> str:
    if names := first_row(json_rows(path)):
        return _columns(names)
    items: Any = first(json_items(path, object))
    if items is not None:
        return f"its list holds {_kind(items)}, no texts or objects"
    if path.suffix.lower() != ".json" and (names := first_row(json_lines(path))):
        return _columns(names)
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size < 1 << 26 else None
    except (ValueError, RecursionError):
        return "its beginning isn't JSON" if path.suffix.lower() != ".json" else "it isn't JSON, or is cut short"
    if isinstance(whole, dict):
        return f"it is a JSON object with {_some(whole)}, and no list"
    return "its list is empty" if whole == [] else f"it holds {_kind(whole)}, and no list"


def _folder(path: Path) -> str:
    files = list(islice(walk_files(path), 1000))
    if not files:
        hidden = next((name for name in sorted(os.listdir(path)) if is_hidden(name)), None)
        return f"it holds nothing but hidden files, such as {hidden}" if hidden else "it is empty"
    if table := next(table_files(path), None):
        reason = _columns_of(table)
        return f"{table.relative_to(path)}: {reason}" if reason else ""
    folders = {each.name.casefold(): each.name for each in path.iterdir() if each.is_dir()}
    for names in zip(*SIDE_NAMES, strict=True):
        if found := next((folders[name] for name in names if name in folders), None):
            other = SIDE_NAMES[0][1] if found.casefold() in {side for side, _ in SIDE_NAMES} else SIDE_NAMES[0][0]
            return f"it has a folder {found}, and none called {other}"
    if pictures := sum(map(is_picture, files)):
        return f"it holds pictures ({pictures}), and no folders winner and loser, nor a metadata.jsonl with their texts"
    archives = [file for file in files if file.suffix.lower() in (".gz", ".zst", ".zip", ".tar", ".bz2", ".xz", ".7z")]
    if archives:
        return f"{archives[0].relative_to(path)} is compressed: unpack it"
    return f"it holds {_some([str(file.relative_to(path)) for file in files])}"


def _columns_of(path: Path) -> str:
    """Return what is wrong with a Parquet or Arrow file."""
    if path.stat().st_size == 0:
        return "it is empty"
    if path.suffix.lower() not in TABLE_ENDINGS:
        return "it is a Parquet or Arrow file without their ending: call it .parquet or .arrow"
    names = column_names(path)
    if names:
        return _columns(names[0])
    with path.open("rb") as file:
        beginning = file.read(512)
    for begins, reason in BEGINS.items():
        if beginning.startswith(begins):
            return reason
    if len(beginning) < 512 and LINK.fullmatch(beginning):
        return "it is a link that was copied as a file: copy the folder with its links"
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            pq.read_schema(path)
        except (OSError, pa.ArrowException, ValueError) as failure:
            return f"it is no Parquet file, or damaged: {' '.join(str(failure).split())[:120]}: fetch it anew"
    return "it is no Arrow file, or damaged: fetch it anew"


def _columns(names: Any) -> str:
    return f"its columns are {_some(names)}: {WANTED}"


def _some(names: Any) -> str:
    listed = sorted(map(str, names))
    shown = [name[:40] or "''" for name in listed[:NAMES_SHOWN]]
    return ", ".join([*shown, *(["..."] if len(listed) > NAMES_SHOWN else [])])


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "a truth value", int: "numbers", float: "numbers", list: "lists", dict: "objects"}
    return kinds.get(type(value), "nothing")
