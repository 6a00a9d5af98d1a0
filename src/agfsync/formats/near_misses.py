"""Explains why no format recognises a file or folder, and what to do. It isn't a format."""

import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.errors import FormatError
from agfsync.formats.columns import TABLE_ENDINGS, column_names, table_files
from agfsync.formats.folders import SIDE_NAMES
from agfsync.formats.image_folder import is_image_name
from agfsync.formats.pairing import COPIED_LINK, explain_kind
from agfsync.formats.paths import is_hidden, walk_files
from agfsync.formats.reading import (
    BEGINNING,
    detect_encoding,
    guess_encoding,
    peek_row,
    read_header,
    read_json_items,
    read_json_lines,
    read_json_list,
)

_UNPACK = "unpack it, and name the folder"
_IMAGE = "it is an image: name the folder of winners and losers"
_KNOWN_BEGINNINGS = {
    b"\x1f\x8b": "it is compressed (gzip): unpack it",
    b"\x28\xb5\x2f\xfd": "it is compressed (Zstandard): unpack it",
    b"BZh": "it is compressed (bzip2): unpack it",
    b"\xfd7zXZ\0": "it is compressed (xz): unpack it",
    b"\x04\x22\x4d\x18": "it is compressed (LZ4): unpack it",
    b"7z\xbc\xaf\x27\x1c": f"it is a 7z archive: {_UNPACK}",
    b"Rar!": f"it is a RAR archive: {_UNPACK}",
    b"PK\x03\x04": f"it is a ZIP archive: {_UNPACK}",
    b"\xd0\xcf\x11\xe0": "it is an Excel or Word file: save it as CSV (UTF-8)",
    b"SQLite format 3": "it is a SQLite database: write its table as CSV",
    b"\x89HDF": "it is an HDF5 file: write its table as Parquet or CSV",
    b"\x80\x04\x95": "it is a pickle, which is never opened: write it as Parquet or CSV",
    b"\x89PNG": _IMAGE,
    b"\xff\xd8\xff": _IMAGE,
    b"RIFF": _IMAGE,
    b"version https://git-lfs": "it is a Git LFS pointer: fetch the file itself",
}
_TAR = (257, b"ustar")
_WORKBOOK_ENDINGS = (".xlsx", ".xlsm", ".ods")
_ARCHIVE_ENDINGS = (".gz", ".zst", ".zip", ".tar", ".bz2", ".xz", ".7z")
_WANTED_COLUMNS = (
    "prompts are looked for under prompt, prompts, caption, captions or text; pairs under caption, jpg_0, jpg_1,"
    " label_0 and label_1, or prompt, chosen and rejected"
)
_NAMES_SHOWN = 8
_KINDS = {str: "text", bool: "a truth value", int: "numbers", float: "numbers", list: "lists", dict: "objects"}


def explain_unknown(path: Path) -> str:
    """Return the likeliest reason why no format recognises the file or folder at `path`; empty if there is none."""
    try:
        return _explain_folder(path) if path.is_dir() else _explain_file(path)
    except OSError as failure:
        return f"it can't be read: {failure.strerror or failure}"
    except FormatError as failure:
        return str(failure).removeprefix(f"{path}: ")


def _explain_file(path: Path) -> str:
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    ending = path.suffix.lower()
    if not beginning:
        return "it is empty"
    if ending in _WORKBOOK_ENDINGS:
        return "it is an Excel workbook: save it as CSV (UTF-8)"
    if reason := _explain_beginning(beginning):
        return reason
    if beginning.startswith((b"PAR1", b"ARROW1")) or ending in TABLE_ENDINGS:
        return _explain_table(path)
    if reason := explain_kind(beginning):
        return reason.partition(": ")[2]
    if reason := _explain_encoding(beginning):
        return reason
    if ending in (".csv", ".tsv"):
        names = read_header(path)
        return _explain_columns(names) if names else "it has no header that can be read as a table's"
    if ending in (".jsonl", ".ndjson", ".json"):
        return _explain_json(path)
    if ending != ".txt":
        ending_is = f"'{ending}' is no ending of a known format" if ending else "its name has no ending"
        return f"{ending_is}: call plain text, a prompt a line, .txt, and a table .csv, .jsonl or .parquet"
    return ""


def _explain_beginning(beginning: bytes) -> str:
    for known, reason in _KNOWN_BEGINNINGS.items():
        if beginning.startswith(known):
            return reason
    if beginning[_TAR[0] :].startswith(_TAR[1]):
        return f"it is a TAR archive: {_UNPACK}"
    if len(beginning) < 512 and COPIED_LINK.fullmatch(beginning):
        return "it is a link that was copied as a file: copy the folder with its links"
    return ""


def _explain_encoding(beginning: bytes) -> str:
    likely = guess_encoding(beginning)
    try:
        beginning.decode(detect_encoding(beginning))
    except UnicodeDecodeError as failure:
        # The last character of the beginning may be cut.
        if failure.start < len(beginning) - 4 or len(beginning) < BEGINNING:
            return f"it isn't UTF-8 text, but likely {likely}: save it as UTF-8" if likely else "it is no text"
    return f"it is likely {likely}: save it as UTF-8" if likely.startswith("UTF-16") else ""


def _explain_json(path: Path) -> str:
    if names := peek_row(read_json_list(path)):
        return _explain_columns(names)
    try:
        return f"its list holds {_name_kind(next(read_json_items(path)))}, no texts or objects"
    except (StopIteration, FormatError):
        pass  # It has no list, or none that can be read: the code below tells which.
    if path.suffix.lower() != ".json" and (names := peek_row(read_json_lines(path))):
        return _explain_columns(names)
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size < 1 << 26 else None
    except (ValueError, RecursionError):
        return "its beginning isn't JSON" if path.suffix.lower() != ".json" else "it isn't JSON, or is cut short"
    if isinstance(whole, dict):
        return f"it is a JSON object with {_list_names(whole)}, and no list"
    return "its list is empty" if whole == [] else f"it holds {_name_kind(whole)}, and no list"


def _explain_folder(path: Path) -> str:
    files = list(islice(walk_files(path), 1000))
    if not files:
        hidden = next((name for name in sorted(os.listdir(path)) if is_hidden(name)), None)
        return f"it holds nothing but hidden files, such as {hidden}" if hidden else "it is empty"
    if table := next(table_files(path), None):
        reason = _explain_table(table)
        return f"{table.relative_to(path)}: {reason}" if reason else ""
    folders = {each.name.casefold(): each.name for each in path.iterdir() if each.is_dir()}
    winners, losers = zip(*SIDE_NAMES, strict=True)
    for names, missing in ((winners, losers[0]), (losers, winners[0])):
        if found := next((folders[name] for name in names if name in folders), None):
            return f"it has a folder {found}, and none called {missing}"
    if images := sum(map(is_image_name, files)):
        return f"it holds images ({images}), and no folders winner and loser, nor a metadata.jsonl with their texts"
    if archive := next((file for file in files if file.suffix.lower() in _ARCHIVE_ENDINGS), None):
        return f"{archive.relative_to(path)} is compressed: unpack it"
    return f"it holds {_list_names(str(file.relative_to(path)) for file in files)}"


def _explain_table(path: Path) -> str:
    """Describe the fault of a Parquet or Arrow file."""
    if path.stat().st_size == 0:
        return "it is empty"
    if path.suffix.lower() not in TABLE_ENDINGS:
        return "it is a Parquet or Arrow file without their ending: call it .parquet or .arrow"
    if names := column_names(path):
        return _explain_columns(names[0])
    with path.open("rb") as file:
        if reason := _explain_beginning(file.read(512)):
            return reason
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            pq.read_schema(path)
        except (OSError, pa.ArrowException, ValueError) as failure:
            return f"it is no Parquet file, or damaged: {' '.join(str(failure).split())[:120]}: fetch it again"
    return "it is no Arrow file, or damaged: fetch it again"


def _explain_columns(names: Iterable[str]) -> str:
    return f"its columns are {_list_names(names)}: {_WANTED_COLUMNS}"


def _list_names(names: Iterable[str]) -> str:
    listed = sorted(map(str, names))
    return ", ".join([name[:40] or "''" for name in listed[:_NAMES_SHOWN]] + ["..."] * (len(listed) > _NAMES_SHOWN))


def _name_kind(value: Any) -> str:
    return _KINDS.get(type(value), "nothing")
