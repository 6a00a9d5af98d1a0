"""Parquet: a row a prompt, or a row a question on one. A run's own captions are such a table."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt, rows
from agfsync.formats.reading import parquet_columns, parquet_rows


class ParquetTable:
    title = "a Parquet table of prompts"

    def recognises(self, path: Path) -> bool:
        return rows.column(parquet_columns(path)) is not None

    def prompts(self, path: Path) -> Iterator[Prompt]:
        wanted = {*rows.TEXTS, *rows.OTHERS}
        # Pictures and whatever else lies beside the prompts stays unread.
        columns = [name for name in parquet_columns(path) if name.casefold() in wanted]
        return rows.prompts(parquet_rows(path, columns), path)
