"""Binarized preferences, as in open-image-preferences-v1-binarized: rows with a chosen and a rejected image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.formats import Dataset, PairItem, Preference, WrittenPair
from agfsync.formats.columns import ROWS_WITH_IMAGES, column_rows, has_columns
from agfsync.formats.pairing import parse_image
from agfsync.formats.reading import Row, get_category, read_rows, require_text
from agfsync.formats.writing import name_selectors, write_pairs
from agfsync.records import IMAGE

BINARIZED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("chosen", IMAGE),
        ("rejected", IMAGE),
        ("chosen_model", pa.string()),
        ("rejected_model", pa.string()),
        ("evolution", pa.string()),
        ("category", pa.string()),
        ("sub_category", pa.string()),
    ]
)
_NEEDED = ("prompt", "chosen", "rejected")


class Binarized:
    """One or several Parquet files of binarized preferences, alone or in a folder."""

    title = "binarized preferences"

    def recognises(self, path: Path) -> bool:
        """Return True for a table with the columns prompt, chosen and rejected."""
        return has_columns(path, _NEEDED)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield each row's pair of the chosen and the rejected image."""
        rows = column_rows(path, (*_NEEDED, "category"), split, _NEEDED, ROWS_WITH_IMAGES)
        return read_rows(rows, lambda row: [_read_pair(row, path)])

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Write the pairs without ties, which the format can't express."""
        schema = name_selectors(BINARIZED_SCHEMA, dataset.selected_by)
        return write_pairs(dataset.pairs, folder / "data", schema, make_binarized_row)


def make_binarized_row(pair: WrittenPair, number: int) -> dict[str, Any]:
    """Return a pair as a row; the published set's columns evolution and sub_category stay empty."""
    return {
        "id": pair.key,
        "prompt": pair.prompt,
        "chosen": {"bytes": pair.winner, "path": None},
        "rejected": {"bytes": pair.loser, "path": None},
        "chosen_model": pair.winner_model,
        "rejected_model": pair.loser_model,
        "category": pair.category,
    }


def _read_pair(row: Row, path: Path) -> Preference:
    chosen, rejected = (parse_image(row.get(name), row.file.parent, path) for name in ("chosen", "rejected"))
    return Preference(require_text(row, "prompt"), chosen, rejected, get_category(row, "category"), row.where)
