"""Parquet or Arrow, also as `save_to_disk` writes it: a prompt, or a question on one, in each row.

The captions of a run are such a table.
"""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.rows import OTHER_COLUMNS, PROMPT_COLUMNS, find_column, parse_prompts


class ParquetTable:
    """A Parquet or Arrow file, or a folder of several."""

    title = "a Parquet or Arrow table of prompts"

    def recognises(self, path: Path) -> bool:
        return any(find_column(names) is not None for names in column_names(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        wanted = {*PROMPT_COLUMNS, *OTHER_COLUMNS}
        # Other columns, such as pictures, are never read.
        there = [names for names in column_names(path) if find_column(names) is not None]
        columns = sorted({name for names in there for name in names if name.strip().casefold() in wanted})
        return parse_prompts(column_rows(path, columns, split, lambda names: find_column(names) is not None))
