"""DiffusionDB: the metadata of users' images, with a row for each image and its prompt."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.columns import column_rows, has_columns
from agfsync.formats.reading import Row, read_rows, require_text

MOST_UNSAFE = 0.5
"""A prompt is left out if its probability of being unsafe (`prompt_nsfw`, 0..1) is above this."""
_COLUMNS = ("prompt", "prompt_nsfw")


class DiffusionDB:
    """DiffusionDB's `metadata.parquet`, or its folder (arXiv:2210.14896)."""

    title = "DiffusionDB"

    def recognises(self, path: Path) -> bool:
        """Return True for a table with DiffusionDB's columns image_name, prompt and prompt_nsfw."""
        return has_columns(path, ("image_name", *_COLUMNS))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompt of each image, without unsafe ones; prompts may repeat."""
        return read_rows(column_rows(path, _COLUMNS, split, _COLUMNS), _read_row)


def _read_row(row: Row) -> list[Prompt | LeftOut]:
    unsafe = row["prompt_nsfw"]
    if isinstance(unsafe, int | float) and unsafe > MOST_UNSAFE:
        return [LeftOut(f"prompt_nsfw above {MOST_UNSAFE:g}", row.where, failed=False)]
    return [Prompt(require_text(row, "prompt"))]
