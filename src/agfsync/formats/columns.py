"""Read Parquet and Arrow files, of one split, without hidden ones, a few rows at a time. No format of its own."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.formats import LeftOut
from agfsync.formats.reading import Row, Rows, format_errors
from agfsync.formats.splits import split_of, take_split
from agfsync.formats.walking import walk_files

BUFFER = 1 << 20
"""Bytes of a Parquet column read at a time, where it would else be a whole row group's."""
WITH_PICTURES = 16
"""Rows with pictures read at a time."""
ROWS = 1000
"""Rows without pictures read at a time."""
FILES_LOOKED_AT = 8
"""Files whose columns are looked at to recognise a folder: the first may be of another table."""
TABLE_ENDINGS = {".parquet", ".pq", ".arrow", ".feather"}
STATE, SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` writes beside its Arrow files, and beside the folders of several splits."""


def table_files(path: Path) -> Iterator[Path]:
    """Yield the Parquet or Arrow file at `path`, or those in the folder there and below it, in order of name."""
    if not path.is_dir():
        yield from [path] if path.suffix.lower() in TABLE_ENDINGS else []
        return
    listed: dict[Path, Collection[str] | None] = {}
    for file in walk_files(path):
        if file.suffix.lower() in TABLE_ENDINGS:
            folder = file.parent
            if folder not in listed:
                listed[folder] = _listed(folder / STATE)
            names = listed[folder]
            # Beside its files lie those in which datasets keep what they have reckoned.
            if file.name in names if names is not None else not file.name.startswith("cache-"):
                yield file


def _listed(state: Path) -> Collection[str] | None:
    """Return the files that a folder of `save_to_disk` consists of; None where it is no such folder."""
    try:
        return {str(each["filename"]) for each in json.loads(state.read_bytes())["_data_files"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def column_names(path: Path) -> list[set[str]]:
    """Return the columns of each of the first files at `path` that can be read."""
    found = []
    for file in islice(table_files(path), FILES_LOOKED_AT):
        try:
            found.append(set(_schema(file).names))
        except (OSError, pa.ArrowException, ValueError):
            continue
    return found


def has_columns(path: Path, wanted: Collection[str]) -> bool:
    """True if a table at `path` has all columns that are `wanted`."""
    return any(names >= set(wanted) for names in column_names(path))


def column_rows(
    path: Path,
    columns: Sequence[str],
    split: str = "",
    needed: Collection[str] | Callable[[Sequence[str]], bool] = (),
    at_once: int = ROWS,
) -> Rows:
    """Yield the rows of the tables at `path`, of those of `columns` that are there, `at_once` in memory at a time.

    Args:
        split: see `take_split`; rows of others are counted.
        needed: columns without which a file is of another table, and counted; or what says so of its columns.

    Raises:
        FormatError: a file is damaged, or there is no such split.
    """
    root = path if path.is_dir() else path.parent
    several = (path / SPLITS).is_file()
    files = ((_split(file.relative_to(root), several) if path.is_dir() else "", file) for file in table_files(path))
    taken, others = take_split(path, files, split)
    named = {_split(file.relative_to(root), several) for file in taken}
    for name, rest in others.items():
        for file in rest:
            what = f"of the split '{name}'" if name else "of no split"
            reason = f"{what}: '{min(named)}' is taken" if named - {""} else what
            yield LeftOut(reason, str(file.relative_to(root)), _length(file), failed=False)
    for file in taken:
        with format_errors(file):
            there = _schema(file).names
            if not (needed(there) if callable(needed) else set(there).issuperset(needed)):
                yield LeftOut("of another table", str(file.relative_to(root)), _length(file), failed=False)
                continue
            where = f"{file.relative_to(root)}: row" if path.is_dir() else "row"
            for number, values in enumerate(_values(file, [name for name in columns if name in there], at_once), 1):
                yield Row(values, file, f"{where} {number}")


def _split(file: Path, several: bool) -> str:
    """Return the split of a file, which is the folder's name where `save_to_disk` wrote several."""
    return file.parts[0] if several and len(file.parts) > 1 else split_of(file.parts)


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() in (".parquet", ".pq")


def _schema(file: Path) -> pa.Schema:
    if _is_parquet(file):
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as mapped:
        return _opened(mapped).schema


def _opened(mapped: pa.MemoryMappedFile) -> Any:
    """Open an Arrow file of either kind: a stream, as datasets write, or a file, which is Feather's too."""
    is_file = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    return pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)


def _length(file: Path) -> int:
    """Return how many rows a file has, without reading them where it says."""
    with format_errors(file):
        if _is_parquet(file):
            return int(pq.read_metadata(file).num_rows)
        with pa.memory_map(str(file)) as mapped:
            return sum(batch.num_rows for batch in _batches(_opened(mapped)))


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _values(file: Path, columns: Sequence[str], at_once: int) -> Iterator[dict[str, Any]]:
    if _is_parquet(file):
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as parquet:
            for batch in parquet.iter_batches(batch_size=at_once, columns=columns):
                yield from batch.to_pylist()
        return
    with closing(pa.memory_map(str(file))) as mapped:
        for batch in _batches(_opened(mapped)):
            part = batch.select(columns)
            for start in range(0, batch.num_rows, at_once):
                yield from part.slice(start, at_once).to_pylist()
