"""Pick-a-Pic v2, the format that the published Diffusion-DPO trainers read."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.formats import Dataset, NoPreference, PairItem, Preference, WrittenPair
from agfsync.formats.columns import ROWS_WITH_IMAGES, column_rows, has_columns
from agfsync.formats.pairing import is_number, parse_image
from agfsync.formats.reading import Row, read_rows, require_text
from agfsync.formats.writing import name_selectors, write_pairs
from agfsync.records import derive_seed

PICK_A_PIC_SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
    ]
)
_NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")


class PickAPic:
    """One or several Parquet files of Pick-a-Pic, alone or in a folder."""

    title = "Pick-a-Pic v2"

    def recognises(self, path: Path) -> bool:
        """Return True for a table with a caption, two images and their labels."""
        return has_columns(path, _NEEDED)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pair of each row; equal labels are a tie."""
        rows = column_rows(path, (*_NEEDED, "has_label"), split, _NEEDED, ROWS_WITH_IMAGES)
        return read_rows(rows, lambda row: [_read_pair(row, path)])

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Write the pairs. Ties are dropped, since some trainers treat them as wins of jpg_0.

        Whether the winner is jpg_0 or jpg_1 is drawn from the pair's key.
        """
        created = datetime.fromisoformat(dataset.created).replace(tzinfo=None)
        schema = name_selectors(PICK_A_PIC_SCHEMA, dataset.selected_by)
        return write_pairs(dataset.pairs, folder / "data", schema, partial(_make_row, created=created))


def _read_pair(row: Row, path: Path) -> Preference | NoPreference:
    prompt, (zero, one) = require_text(row, "caption"), (row.get("label_0"), row.get("label_1"))
    if row.get("has_label") is False or not is_number(zero) or not is_number(one):
        return NoPreference(prompt, "no label", where=row.where)
    if zero == one:
        return NoPreference(prompt, where=row.where)
    images = [parse_image(row.get(name), row.file.parent, path) for name in ("jpg_0", "jpg_1")]
    winner, loser = images if zero > one else reversed(images)
    return Preference(prompt, winner, loser, where=row.where)


def _make_row(pair: WrittenPair, number: int, created: datetime) -> dict[str, Any]:
    """Return a pair as a row. The columns jpg_0 and jpg_1 may have any encoding; here they have the run's own files."""
    images = [
        (pair.winner_key, pair.winner, pair.winner_model, 1.0),
        (pair.loser_key, pair.loser, pair.loser_model, 0.0),
    ]
    if derive_seed("winner's place", pair.key) % 2:
        images.reverse()
    sides: dict[str, Any] = {}
    for place, (key, image, model, label) in enumerate(images):
        sides |= {f"image_{place}_uid": key, f"image_{place}_url": "", f"jpg_{place}": image}
        sides |= {f"label_{place}": label, f"model_{place}": model}
    return sides | {
        "are_different": pair.winner_key != pair.loser_key,
        "best_image_uid": pair.winner_key,
        "caption": pair.prompt,
        "created_at": created,
        "has_label": True,
        "ranking_id": number,
        # No user labelled the pair.
        "user_id": None,
        "num_example_per_prompt": pair.of_prompt,
    }
