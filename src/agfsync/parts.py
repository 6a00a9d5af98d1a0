"""Parquet parts: rows to bytes and back, with checksums held against what is read."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.disk import guarded
from agfsync.records import huggingface_metadata

SPAN = 64
"""Units read in one go."""


class BadPart(Exception):
    """A part that is missing or isn't what was written; says which of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit's rows lie: in which part, from which row on; a unit without rows lies in none."""

    unit: str
    part: int | None
    first: int
    rows: int


def encode(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """`rows` as a Parquet file that Hugging Face datasets read, images as pictures."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema=huggingface_metadata(schema))
    # A dictionary would be built of the images as well, and thrown away; compression does as much for the keys.
    layout = {"compression": "zstd", "use_dictionary": False, "row_group_size": 1000, "write_page_checksum": True}
    pq.write_table(table, buffer, **layout)
    return buffer.getvalue()


def decode(path: Path, columns: Sequence[str] | None, size: int, sha256: str) -> pa.Table:
    """The table at `path`. A whole one is held against `sha256`; of some columns, Parquet's page checksums are.

    Raises:
        BadPart: it isn't there, or isn't what was written.
        StoreError: the disk doesn't let it be read.
    """
    if not path.is_file():
        raise BadPart("is missing")
    if path.stat().st_size != size:
        raise BadPart("isn't what was written")
    with guarded(path):
        source = pa.BufferReader(path.read_bytes()) if columns is None else pa.memory_map(str(path))
    if columns is None and hashlib.sha256(source.read_buffer()).hexdigest() != sha256:
        raise BadPart("isn't what was written")
    source.seek(0)
    try:
        return pq.ParquetFile(source, page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as failure:
        raise BadPart("isn't what was written") from failure


def spans(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Neighbouring units whose rows follow each other in one part, at most `SPAN` at a time."""
    span: list[Place] = []
    for place in places:
        if span and not (_follows(place, span[-1]) and len(span) < SPAN):
            yield span
            span = []
        span.append(place)
    if span:
        yield span


def _follows(place: Place, before: Place) -> bool:
    return place.part == before.part and place.first == before.first + before.rows
