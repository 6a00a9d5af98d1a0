"""Parquet parts: rows to bytes and back, with checksums held against all that is read."""

import hashlib
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.files.atomic import guarded, write_atomic
from agfsync.records import IMAGE, huggingface_metadata


class BadPart(Exception):
    """A part that is missing or isn't what was written; says which of them."""


@dataclass(frozen=True, slots=True)
class Hollow:
    """A part without its pictures: all bytes but those from `first` to `end`, and their sha256."""

    first: int
    end: int
    sha256: str

    @classmethod
    def parse(cls, text: str) -> Self:
        first, end, sha256 = text.split(":")
        return cls(int(first), int(end), sha256)

    def __str__(self) -> str:
        return f"{self.first}:{self.end}:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the manifest holds of a part: its path in the run folder, its rows and bytes, and what those bytes are."""

    path: str
    rows: int
    size: int
    sha256: str
    hollow: Hollow


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file was when it was written: its size in bytes and its sha256."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit's rows lie: in which part, from which row on; a unit without rows lies in none."""

    unit: str
    part: int | None
    first: int
    rows: int


def write(run: Path, path: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Receipt:
    """Write `rows` as the part `path` of the run folder `run`. What isn't entered in the manifest never happened.

    Raises:
        StoreError: the disk is full or doesn't allow it.
    """
    data = encode(rows, schema)
    with guarded(run / path):
        (run / path).parent.mkdir(exist_ok=True)
    write_atomic(run / path, data)
    return Receipt(path, len(rows), len(data), hashlib.sha256(data).hexdigest(), _hollow(data))


def encode(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """`rows` as a Parquet file of one row group that Hugging Face datasets read, images as pictures."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows), schema=huggingface_metadata(schema))
    # A dictionary would be built of the images as well, and thrown away; compression does as much for the keys.
    layout = {"compression": "zstd", "use_dictionary": False, "row_group_size": len(rows), "write_page_checksum": True}
    pq.write_table(table, sink, **layout)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode(path: Path, columns: Sequence[str] | None, receipt: Receipt) -> pa.Table:
    """The table at `path`, or some of its columns. What is read is held against the sha256 of when it was written.

    Raises:
        BadPart: it isn't there, or isn't what was written.
        StoreError: the disk doesn't let it be read.
    """
    check_size(path, receipt.size)
    whole = columns is None or "image" in columns
    with guarded(path):
        if whole:
            source = pa.py_buffer(_held(path.read_bytes(), receipt.sha256))
        else:
            source = _without_pictures(path, receipt.size, receipt.hollow)
    try:
        return pq.ParquetFile(source, page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as failure:
        raise BadPart("isn't what was written") from failure


def check_size(path: Path, size: int) -> None:
    """See that `path` is there, `size` bytes long.

    Raises:
        BadPart: it isn't. StoreError: the disk doesn't let it be looked at.
    """
    with guarded(path):
        if not path.is_file():
            raise BadPart("is missing")
        if path.stat().st_size != size:
            raise BadPart("isn't what was written")


def spans(places: Iterable[Place]) -> list[list[Place]]:
    """Neighbours together: units whose rows follow each other in one part; those without rows are some as well."""
    spans: list[list[Place]] = []
    for place in sorted(places, key=lambda place: (place.part or 0, place.first)):
        if spans and _follows(place, spans[-1][-1]):
            spans[-1].append(place)
        else:
            spans.append([place])
    return spans


def _follows(place: Place, before: Place) -> bool:
    return place.part == before.part and place.first == before.first + before.rows


def _hollow(data: bytes) -> Hollow:
    """The images' columns lie side by side, since a part is one row group; a part without images lacks nothing."""
    footer = pq.read_metadata(pa.BufferReader(data))
    chunks = [footer.row_group(0).column(n) for n in range(footer.num_columns)]
    pictures = [chunk for chunk in chunks if chunk.path_in_schema in _LEAVES]
    first = min((chunk.data_page_offset for chunk in pictures), default=len(data))
    end = first + sum(chunk.total_compressed_size for chunk in pictures)
    return Hollow(first, end, hashlib.sha256(data[:first] + data[end:]).hexdigest())


_LEAVES = {f"image.{field.name}" for field in IMAGE}


def _without_pictures(path: Path, size: int, hollow: Hollow) -> pa.Buffer:
    """The part with nothing where its pictures are: memory that nobody writes to takes no room."""
    with path.open("rb") as file:
        head = file.read(hollow.first)
        file.seek(hollow.end)
        tail = file.read()
    _held(head + tail, hollow.sha256)
    sparse = mmap.mmap(-1, size)
    sparse[: hollow.first], sparse[hollow.end :] = head, tail
    return pa.py_buffer(sparse)


def _held(data: bytes, sha256: str) -> bytes:
    """`data`, when it is what was written."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadPart("isn't what was written")
    return data
