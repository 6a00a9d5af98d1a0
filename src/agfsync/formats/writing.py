"""Parquet files that grow by rows and are begun anew when they are large. No format of its own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.formats import WrittenPair
from agfsync.records import huggingface_metadata

SHARD_BYTES = 500_000_000
"""Of pictures in a file, about: what Hugging Face datasets make as well."""
GROUP_BYTES, GROUP_ROWS = 16_000_000, 1000
"""Of a row group, the piece that is in memory."""


class Shards:
    """`folder`/train-00000.parquet and on, which Hugging Face datasets read as the split "train"."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, huggingface_metadata(schema)
        self._files, self._in_file, self._waiting_bytes = 0, 0, 0
        self._waiting: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if failure is None and (self._waiting or not self._files):
            # A table without rows still has columns.
            self._write()
        self._end()

    def add(self, row: Mapping[str, Any], picture_bytes: int = 0) -> None:
        """One more row, whose pictures are that large."""
        self._waiting.append(row)
        self._waiting_bytes += picture_bytes
        if self._waiting_bytes >= GROUP_BYTES or len(self._waiting) >= GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if self._writer is None:
            name = self._folder / f"train-{self._files:05}.parquet"
            self._writer = pq.ParquetWriter(name, self._schema, compression="zstd", use_dictionary=False)
            self._files += 1
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._in_file += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        if self._in_file >= SHARD_BYTES:
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_file = None, 0


def write_pairs(
    pairs: Iterable[WrittenPair], folder: Path, schema: pa.Schema, row: Callable[[WrittenPair, int], Mapping[str, Any]]
) -> dict[str, int]:
    """Every pair that isn't a tie as what `row` makes of it and its number; how many `pairs` and dropped `ties`."""
    counts = {"pairs": 0, "ties": 0}
    with Shards(folder, schema) as shards:
        for pair in pairs:
            if pair.margin > 0:
                shards.add(row(pair, counts["pairs"]), len(pair.winner) + len(pair.loser))
            counts["pairs" if pair.margin > 0 else "ties"] += 1
    return counts
