"""Reads Parquet and Arrow files, alone or in folders, a few rows at a time. It isn't a format."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.formats import LeftOut
from agfsync.formats.paths import read_split, split_of, walk_files
from agfsync.formats.reading import Row, Rows, format_errors

ROWS_WITH_IMAGES = 16
"""Number of rows with images in memory at a time."""
TABLE_ENDINGS = {".parquet", ".pq", ".arrow", ".feather"}
_ROWS = 1000
"""Number of rows without images in memory at a time."""
_BUFFER = 1 << 20
"""Bytes of a Parquet column to read at a time, instead of a whole row group."""
_FILES_TRIED = 8
"""Number of files to try when recognising a folder: the first may be of another table."""
_STATE, _SPLITS = "state.json", "dataset_dict.json"
"""Files that `save_to_disk` writes next to its Arrow files, and next to the folders of several splits."""


def table_files(path: Path) -> Iterator[Path]:
    """Yield the Parquet or Arrow file at `path`, or all in the folder `path` and its subfolders, in order of name."""
    if not path.is_dir():
        yield from [path] if path.suffix.lower() in TABLE_ENDINGS else []
        return
    listed: dict[Path, Collection[str] | None] = {}
    for file in walk_files(path):
        if file.suffix.lower() in TABLE_ENDINGS:
            folder = file.parent
            if folder not in listed:
                listed[folder] = _read_state(folder / _STATE)
            names = listed[folder]
            # The package datasets also caches the results of computations there.
            if file.name in names if names is not None else not file.name.startswith("cache-"):
                yield file


def _read_state(state: Path) -> Collection[str] | None:
    """Return the names of the data files in a folder written by `save_to_disk`; None for any other folder."""
    try:
        return {str(each["filename"]) for each in json.loads(state.read_bytes())["_data_files"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def column_names(path: Path) -> list[set[str]]:
    """Return the column names of each of the first files at `path`, except unreadable ones."""
    found = []
    for file in islice(table_files(path), _FILES_TRIED):
        try:
            found.append(set(_read_schema(file).names))
        except (OSError, pa.ArrowException, ValueError):
            continue  # Another file may show the format; reading this one raises the error again.
    return found


def has_columns(path: Path, wanted: Collection[str]) -> bool:
    """Return True if a table at `path` has all columns `wanted`."""
    return any(names >= set(wanted) for names in column_names(path))


def column_rows(
    path: Path,
    columns: Sequence[str],
    split: str = "",
    needed: Collection[str] | Callable[[Sequence[str]], bool] = (),
    at_once: int = _ROWS,
) -> Rows:
    """Yield the rows of the tables at `path`, with the existing ones of `columns`, `at_once` in memory at a time.

    Args:
        split: see `take_split`; rows of other splits are counted.
        needed: the columns that a file of this table must have, or a predicate of its column names.

    Raises:
        FormatError: a file is damaged, or there is no such split.
    """
    several = (path / _SPLITS).is_file()

    def split_name(file: Path) -> str:
        parts = file.relative_to(path).parts
        # `save_to_disk` writes each of several splits to a folder of its name.
        return parts[0] if several and len(parts) > 1 else split_of(parts)

    def read(file: Path) -> Rows:
        with format_errors(file):
            there = _read_schema(file).names
            if not (needed(there) if callable(needed) else set(there).issuperset(needed)):
                yield LeftOut("of another table", "", _count_rows(file), failed=False)
                return
            values = _read_values(file, [name for name in columns if name in there], at_once)
            yield from (Row(each, file, f"row {number}") for number, each in enumerate(values, start=1))

    files = ((split_name(file) if path.is_dir() else "", file) for file in table_files(path))
    return read_split(path, files, split, read, _count_rows)


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() in (".parquet", ".pq")


def _read_schema(file: Path) -> pa.Schema:
    if _is_parquet(file):
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as mapped:
        return _open_arrow(mapped).schema


def _open_arrow(mapped: pa.MemoryMappedFile) -> Any:
    """Open an Arrow file in the stream format, as the package datasets writes, or in the file format, as Feather."""
    is_file = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    return pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)


def _record_batches(mapped: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    reader = _open_arrow(mapped)
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _count_rows(file: Path) -> int:
    """Return the number of rows in a file, from the metadata of a Parquet file."""
    with format_errors(file):
        if _is_parquet(file):
            return int(pq.read_metadata(file).num_rows)
        with pa.memory_map(str(file)) as mapped:
            return sum(batch.num_rows for batch in _record_batches(mapped))


def _read_values(file: Path, columns: Sequence[str], at_once: int) -> Iterator[dict[str, Any]]:
    if _is_parquet(file):
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER) as parquet:
            for batch in parquet.iter_batches(batch_size=at_once, columns=columns):
                yield from batch.to_pylist()
        return
    with pa.memory_map(str(file)) as mapped:
        for batch in _record_batches(mapped):
            part = batch.select(columns)
            for start in range(0, batch.num_rows, at_once):
                yield from part.slice(start, at_once).to_pylist()
