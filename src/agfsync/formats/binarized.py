"""Binarized preferences, as in open-image-preferences-v1-binarized: a chosen and a rejected picture a prompt."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.formats import Dataset, NoPreference, Preference, WrittenPair
from agfsync.formats.pairing import embedded
from agfsync.formats.reading import PICTURES, label, parquet_columns, parquet_rows, text
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


class Binarized:
    title = "binarized preferences"

    def recognises(self, path: Path) -> bool:
        return parquet_columns(path) >= {"prompt", "chosen", "rejected"}

    def pairs(self, path: Path) -> Iterator[Preference | NoPreference]:
        folder = path if path.is_dir() else path.parent
        columns = ("prompt", "chosen", "rejected", "category")
        return (_pair(found, path, folder) for found in parquet_rows(path, columns, PICTURES))

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


def _pair(found: Mapping[str, Any], path: Path, folder: Path) -> Preference:
    chosen, rejected = embedded(found.get("chosen"), folder), embedded(found.get("rejected"), folder)
    return Preference(text(found, "prompt", path), chosen, rejected, label(found, "category"))
