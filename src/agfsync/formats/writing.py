"""Writes pairs as Parquet files, with the scorers that chose them in the metadata. It isn't a format.

Readers that don't know the metadata see ordinary columns and rows.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.formats import Selector, WrittenPair
from agfsync.formats.columns import table_files
from agfsync.records import add_huggingface_metadata

_SHARD_BYTES = 500_000_000
"""Approximate number of bytes of images per file, as in Hugging Face datasets."""
_GROUP_BYTES, _GROUP_ROWS = 16_000_000, 1000
"""Limits of a row group, which is held in memory."""
_SELECTORS_KEY = "agfsync.selected_by"
_IMAGE_COLUMNS = {"chosen", "jpg_0"}
"""Every file of pairs that agfsync writes has one of these columns."""


class ParquetShards:
    """Files `folder`/train-00000.parquet and so on, which Hugging Face datasets read as the split "train"."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, add_huggingface_metadata(schema)
        self._files, self._in_file, self._waiting_bytes = 0, 0, 0
        self._waiting: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if failure is None and (self._waiting or not self._files):
            # Even without rows a file is written, so that the table has columns.
            self._write_group()
        self._close_file()

    def add(self, row: Mapping[str, Any], image_bytes: int = 0) -> None:
        """Append a row; `image_bytes` is the total size of its images."""
        self._waiting.append(row)
        self._waiting_bytes += image_bytes
        if self._waiting_bytes >= _GROUP_BYTES or len(self._waiting) >= _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._writer is None:
            name = self._folder / f"train-{self._files:05}.parquet"
            self._writer = pq.ParquetWriter(name, self._schema, compression="zstd", use_dictionary=False)
            self._files += 1
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._in_file += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        if self._in_file >= _SHARD_BYTES:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_file = None, 0


def write_pairs(
    pairs: Iterable[WrittenPair],
    folder: Path,
    schema: pa.Schema,
    make_row: Callable[[WrittenPair, int], Mapping[str, Any]],
) -> dict[str, int]:
    """Write every pair except ties as a row, which `make_row` returns for the pair and its number.

    Returns:
        The number of written `pairs`, and of dropped `ties`.
    """
    counts = {"pairs": 0, "ties": 0}
    with ParquetShards(folder, schema) as shards:
        for pair in pairs:
            if pair.margin > 0:
                shards.add(make_row(pair, counts["pairs"]), len(pair.winner) + len(pair.loser))
            counts["pairs" if pair.margin > 0 else "ties"] += 1
    return counts


def name_selectors(schema: pa.Schema, selectors: Sequence[Selector] | None) -> pa.Schema:
    """Return `schema` with `selectors` in its metadata; unchanged if they are None."""
    if selectors is None:
        return schema
    text = json.dumps([asdict(each) for each in selectors])
    return schema.with_metadata({**(schema.metadata or {}), _SELECTORS_KEY: text})


def read_selectors(path: Path) -> list[Selector] | None:
    """Return all scorers that the Parquet files of pairs at `path`, a file or folder, name in their metadata.

    Return None unless every file names its scorers: otherwise it is unknown what chose the pairs.
    """
    found: dict[tuple[str, str], Selector] = {}
    known = False
    for file in table_files(path):
        try:
            schema = pq.read_schema(file)
            if _IMAGE_COLUMNS.isdisjoint(schema.names):
                continue
            entries = json.loads((schema.metadata or {})[_SELECTORS_KEY.encode()])
            selectors = [Selector(**entry) for entry in (entries if isinstance(entries, list) else [entries])]
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None  # Then no judge counts as independent of the pairs.
        known = True
        found |= {(each.name, each.identity): each for each in selectors}
    return list(found.values()) if known else None
