"""Parquet or Arrow, also as `save_to_disk` writes it: a row a prompt, or a row a question on one.

A run's own captions are such a table.
"""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.columns import column_names, column_rows


class ParquetTable:
    title = "a Parquet or Arrow table of prompts"

    def recognises(self, path: Path) -> bool:
        return any(rows.column(names) is not None for names in column_names(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        wanted = {*rows.TEXTS, *rows.OTHERS}
        # Pictures and whatever else lies beside the prompts stays unread.
        there = [names for names in column_names(path) if rows.column(names) is not None]
        columns = sorted({name for names in there for name in names if name.strip().casefold() in wanted})
        return rows.prompts(column_rows(path, columns, split, lambda names: rows.column(names) is not None))
