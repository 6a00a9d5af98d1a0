import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from agfsync.formats import Dataset, NoPreference, Preference
from agfsync.formats.pick_a_pic import PickAPic

COLUMNS = (
    "caption jpg_0 jpg_1 label_0 label_1 best_image_uid image_0_uid image_1_uid image_0_url image_1_url model_0 model_1"
    " ranking_id user_id has_label are_different num_example_per_prompt created_at"
)


def test_the_better_label_wins_and_a_tie_or_no_label_is_no_pair(
    tmp_path: Path, image_file: Callable[..., bytes]
) -> None:
    red, blue = image_file("red"), image_file("blue", "JPEG")
    labels = [(1.0, 0.0, True), (0.0, 1.0, True), (0.5, 0.5, True), (1.0, 0.0, False), (float("nan"), 1.0, True)]
    rows = [
        {"caption": "a  cat", "jpg_0": red, "jpg_1": blue, "label_0": zero, "label_1": one, "has_label": has}
        for zero, one, has in labels
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert PickAPic().recognises(tmp_path)
    assert list(PickAPic().pairs(tmp_path / "train.parquet")) == [
        Preference("a cat", red, blue),
        Preference("a cat", blue, red),
        NoPreference("a cat"),
        NoPreference("a cat", "no label"),
        NoPreference("a cat", "no label"),
    ]


def test_what_is_written_has_its_columns_and_no_ties(tmp_path: Path, dataset: Dataset) -> None:
    assert PickAPic().write(dataset, tmp_path) == {"pairs": 5, "ties": 1}
    rows = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(rows.column_names) == sorted(COLUMNS.split(" "))
    assert [row["caption"] for row in rows] == ["prompt 0", "prompt 1", "prompt 2", "prompt 3", "prompt 4"]
    assert all({row["label_0"], row["label_1"]} == {0.0, 1.0} and row["has_label"] for row in rows)
    assert rows[0]["created_at"].year == 2026 and rows[0]["num_example_per_prompt"] == 1


def test_the_winner_is_where_its_label_says_and_on_either_side(tmp_path: Path, dataset: Dataset) -> None:
    PickAPic().write(dataset, tmp_path)
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "data").to_pylist()
    for row in rows:
        place = 0 if row["label_0"] == 1 else 1
        assert row[f"image_{place}_uid"] == row["best_image_uid"]
        assert Image.open(io.BytesIO(row[f"jpg_{place}"])).getpixel((0, 0)) == (255, 0, 0)
    assert {row["label_0"] for row in rows} == {0.0, 1.0}


def test_what_is_written_is_read_again(tmp_path: Path, dataset: Dataset, image_file: Callable[..., bytes]) -> None:
    PickAPic().write(dataset, tmp_path)
    found = list(PickAPic().pairs(tmp_path))
    assert found == [Preference(f"prompt {i}", image_file("red"), image_file("blue")) for i in range(5)]
