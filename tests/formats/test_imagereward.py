import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.errors import FormatError
from agfsync.formats import NoPreference, Preference
from agfsync.formats.imagereward import ImageRewardDB


def rows(*of: tuple[str, Any, int]) -> list[dict[str, Any]]:
    common = {"prompt": "a cat", "classification": "Animals"}
    return [common | {"prompt_id": key, "image": image, "rank": rank} for key, image, rank in of]


def test_rows_with_images_in_parquet_are_ranked_prompt_by_prompt(
    tmp_path: Path, image_file: Callable[..., bytes]
) -> None:
    red, blue, green = ({"bytes": image_file(color), "path": None} for color in ("red", "blue", "green"))
    found = rows(("1", red, 2), ("1", blue, 1), ("1", green, 1), ("2", red, 1))
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "train.parquet")
    assert ImageRewardDB().recognises(tmp_path)
    assert list(ImageRewardDB().pairs(tmp_path)) == [
        Preference("a cat", image_file("blue"), image_file("red"), "Animals"),
        Preference("a cat", image_file("green"), image_file("red"), "Animals"),
        NoPreference("a cat", "tie", "Animals"),
        NoPreference("a cat", "a prompt with fewer than two images", "Animals"),
    ]


def test_rows_of_a_prompt_that_lie_apart_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows(("1", "a.webp", 1), ("2", "b.webp", 1), ("1", "c.webp", 2))))
    with pytest.raises(FormatError, match="rows of prompt_id 1 don't lie together: sort them by prompt_id"):
        list(ImageRewardDB().pairs(file))


def test_groups_and_pairs_of_names(tmp_path: Path) -> None:
    group = {"id": "1", "prompt": "a cat", "generations": ["a.webp", "b.webp"], "ranking": [2, 1]}
    pair = {"prompt_id": "1", "prompt": "a dog", "classification": "Animals"}
    pair |= {"img_better": "c.webp", "img_worse": "d.webp"}
    (tmp_path / "groups.json").write_text(json.dumps([group]))
    (tmp_path / "pairs.json").write_text(json.dumps([pair]))
    assert all(ImageRewardDB().recognises(tmp_path / name) for name in ("groups.json", "pairs.json"))
    assert list(ImageRewardDB().pairs(tmp_path / "groups.json")) == [
        Preference("a cat", tmp_path / "b.webp", tmp_path / "a.webp")
    ]
    assert list(ImageRewardDB().pairs(tmp_path / "pairs.json")) == [
        Preference("a dog", tmp_path / "c.webp", tmp_path / "d.webp", "Animals")
    ]
