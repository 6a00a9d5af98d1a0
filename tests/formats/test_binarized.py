from collections.abc import Callable
from pathlib import Path

import datasets

from agfsync.formats import Dataset, Preference
from agfsync.formats.binarized import Binarized

COLUMNS = ["id", "prompt", "chosen", "rejected", "chosen_model", "rejected_model", "evolution", "category"]


def test_what_is_written_has_its_columns_with_images_and_no_ties(tmp_path: Path, dataset: Dataset) -> None:
    assert Binarized().write(dataset, tmp_path) == {"pairs": 5, "ties": 1}
    rows = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.column_names == [*COLUMNS, "sub_category"]
    row = rows[0]
    assert (row["prompt"], row["category"], row["chosen_model"]) == ("prompt 0", "even", "a model")
    assert row["chosen"].getpixel((0, 0)) == (255, 0, 0) and row["rejected"].getpixel((0, 0)) == (0, 0, 255)


def test_what_is_written_is_read_again(tmp_path: Path, dataset: Dataset, image_file: Callable[..., bytes]) -> None:
    Binarized().write(dataset, tmp_path)
    assert Binarized().recognises(tmp_path)
    first, *others = Binarized().pairs(tmp_path)
    assert first == Preference("prompt 0", image_file("red"), image_file("blue"), "even") and len(others) == 4
