"""Binarized preferences, as in open-image-preferences-v1-binarized: a chosen and a rejected picture a prompt."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.formats import Dataset, PairItem, Preference, WrittenPair
from agfsync.formats.columns import WITH_PICTURES, column_rows, has_columns
from agfsync.formats.pairing import embedded
from agfsync.formats.reading import Row, label, read_rows, text
from agfsync.formats.selection import name_selectors
from agfsync.formats.writing import write_pairs
from agfsync.records import IMAGE

SCHEMA = pa.schema(
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

BINARIZED_COLUMNS = ("prompt", "chosen", "rejected")


class Binarized:
    title = "binarized preferences"

    def recognises(self, path: Path) -> bool:
        return has_columns(path, BINARIZED_COLUMNS)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        rows = column_rows(path, (*BINARIZED_COLUMNS, "category"), split, BINARIZED_COLUMNS, WITH_PICTURES)
        return read_rows(rows, lambda found: [_pair(found, path)])

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Ties are dropped: the format has no word for them."""
        return write_pairs(dataset.pairs, folder / "data", name_selectors(SCHEMA, dataset.selected_by), row)


def row(pair: WrittenPair, number: int) -> dict[str, Any]:
    """A pair as a row; what only the prompts of the published set have (evolution, sub-category) stays empty."""
    return {
        "id": pair.key,
        "prompt": pair.prompt,
        "chosen": {"bytes": pair.winner, "path": None},
        "rejected": {"bytes": pair.loser, "path": None},
        "chosen_model": pair.winner_model,
        "rejected_model": pair.loser_model,
        "category": pair.category,
    }


def _pair(found: Row, path: Path) -> Preference:
    chosen, rejected = (embedded(found.get(name), found.file.parent, path) for name in ("chosen", "rejected"))
    return Preference(text(found, "prompt"), chosen, rejected, label(found, "category"), found.where)
