"""Parquet parts: rows are written to bytes and read back; each read is verified against its checksum."""

import hashlib
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.files.atomic import store_errors, write_atomic
from agfsync.records import IMAGE, add_huggingface_metadata

MISSING = "is missing"
"""the fault of a part or file that isn't there"""


class DamagedPartError(Exception):
    """A part that is missing or damaged; the message says which."""


@dataclass(frozen=True, slots=True)
class Hollow:
    """A part without its images: the sha256 of all bytes but those from `first` to `end`."""

    first: int
    end: int
    sha256: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value that `str` wrote as `text`."""
        first, end, sha256 = text.split(":")
        return cls(int(first), int(end), sha256)

    def __str__(self) -> str:
        return f"{self.first}:{self.end}:{self.sha256}"


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A part in the manifest: its path in the run folder, its numbers of rows and bytes, and their checksums."""

    path: str
    rows: int
    size: int
    sha256: str
    hollow: Hollow


@dataclass(frozen=True, slots=True)
class FileChecksum:
    """The size in bytes and the sha256 of a file when it was written."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UnitPlace:
    """The place of a unit's rows: the part, and the first row in it; None for a unit without rows."""

    unit: str
    part: int | None
    first: int
    rows: int


def write_part(run: Path, path: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> PartEntry:
    """Write `rows` as the part `path` of the run folder `run`; it is valid once it is in the manifest.

    Raises:
        StoreError: the disk is full or not writable.
    """
    data = encode_part(rows, schema)
    with store_errors(run / path):
        (run / path).parent.mkdir(exist_ok=True)
    write_atomic(run / path, data)
    return PartEntry(path, len(rows), len(data), hashlib.sha256(data).hexdigest(), _checksum_without_images(data))


def encode_part(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """Return `rows` as a Parquet file of one row group; Hugging Face datasets can read its image column."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows), schema=add_huggingface_metadata(schema))
    # With dictionaries, one of the images would be built and discarded; compression does as much for the keys.
    layout = {"compression": "zstd", "use_dictionary": False, "row_group_size": len(rows), "write_page_checksum": True}
    pq.write_table(table, sink, **layout)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_part(path: Path, columns: Sequence[str] | None, entry: PartEntry) -> pa.Table:
    """Return the table at `path`, or some of its columns, verified against its checksum.

    Raises:
        DamagedPartError: it is missing or damaged.
        StoreError: the disk can't be read.
    """
    check_size(path, entry.size)
    whole = columns is None or "image" in columns
    with store_errors(path):
        if whole:
            source = pa.py_buffer(_verify_checksum(path.read_bytes(), entry.sha256))
        else:
            source = _read_without_images(path, entry.size, entry.hollow)
    try:
        return pq.ParquetFile(source, page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as failure:
        raise DamagedPartError("is damaged") from failure


def check_size(path: Path, size: int) -> None:
    """Check that the file at `path` exists and has `size` bytes.

    Raises:
        DamagedPartError: it doesn't. StoreError: the disk can't be read.
    """
    with store_errors(path):
        if not path.is_file():
            raise DamagedPartError(MISSING)
        if path.stat().st_size != size:
            raise DamagedPartError("is damaged")


def group_spans(places: Iterable[UnitPlace]) -> list[list[UnitPlace]]:
    """Group neighbours: units with consecutive rows in one part; units without rows are one group."""
    spans: list[list[UnitPlace]] = []
    for place in sorted(places, key=lambda place: (place.part or 0, place.first)):
        last = spans[-1][-1] if spans else None
        if last is not None and (place.part, place.first) == (last.part, last.first + last.rows):
            spans[-1].append(place)
        else:
            spans.append([place])
    return spans


def _checksum_without_images(data: bytes) -> Hollow:
    """Return the checksum of `data` without its image columns, which are adjacent: a part is one row group."""
    footer = pq.read_metadata(pa.BufferReader(data))
    chunks = [footer.row_group(0).column(n) for n in range(footer.num_columns)]
    images = [chunk for chunk in chunks if chunk.path_in_schema in _IMAGE_COLUMNS]
    first = min((chunk.data_page_offset for chunk in images), default=len(data))
    end = first + sum(chunk.total_compressed_size for chunk in images)
    return Hollow(first, end, hashlib.sha256(data[:first] + data[end:]).hexdigest())


_IMAGE_COLUMNS = {f"image.{field.name}" for field in IMAGE}


def _read_without_images(path: Path, size: int, hollow: Hollow) -> pa.Buffer:
    """Return the part with zeros in place of its images: pages that are never written take no memory."""
    with path.open("rb") as file:
        head = file.read(hollow.first)
        file.seek(hollow.end)
        tail = file.read()
    _verify_checksum(head + tail, hollow.sha256)
    sparse = mmap.mmap(-1, size)
    sparse[: hollow.first], sparse[hollow.end :] = head, tail
    return pa.py_buffer(sparse)


def _verify_checksum(data: bytes, sha256: str) -> bytes:
    """Return `data` if it has the checksum `sha256`."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedPartError("is damaged")
    return data
