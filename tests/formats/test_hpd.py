import json
from pathlib import Path
from typing import Any

import pytest

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, NoPreference, PairSet, Preference
from agfsync.formats.hpd import HPDv1, HPDv2
from agfsync.formats.sources import recognise_format

TRAIN = [{"prompt": "a cat", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]}]
TEST = [{"prompt": "a dog", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [3, 1, 1], "raw_annotations": []}]


def test_who_is_preferred_wins_and_the_lower_rank(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    (tmp_path / "test.json").write_text(json.dumps(TEST))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.jpg").write_bytes(b"")
    assert HPDv2().recognises(tmp_path) and HPDv2().recognises(tmp_path / "test.json")
    test = [
        Preference("a dog", tmp_path / "test" / "b.jpg", tmp_path / "test" / "a.jpg"),
        Preference("a dog", tmp_path / "test" / "c.jpg", tmp_path / "test" / "a.jpg"),
        NoPreference("a dog"),
    ]
    train = Preference("a cat", tmp_path / "train" / "1.jpg", tmp_path / "train" / "0.jpg")
    left = LeftOut("of the split 'test': 'train' is taken", "test.json", 1, failed=False)
    assert list(HPDv2().pairs(tmp_path)) == [left, train]
    assert list(HPDv2().pairs(tmp_path / "test.json")) == list(HPDv2().pairs(tmp_path, "test"))[1:] == test
    assert list(HPDv2().pairs(tmp_path, "all")) == [train, *test]
    with pytest.raises(FormatError, match="has the splits train, test, no split 'val'"):
        list(HPDv2().pairs(tmp_path, "val"))


def test_a_row_without_as_many_ranks_as_images_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([TRAIN[0] | {"human_preference": [1]}, TRAIN[0]]))
    left, found = HPDv2().pairs(file)
    assert left == LeftOut("no list of the right length under 'human_preference'", "item 1")
    assert isinstance(found, Preference)


def test_images_of_the_hubs_cache_are_links_and_backslashes_are_windows_own(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "0123abc"
    (snapshot / "train").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for number, name in enumerate(("train.json", "train/a.png", "train/b.png")):
        (tmp_path / "blobs" / str(number)).write_bytes(b"")
        (snapshot / name).symlink_to(tmp_path / "blobs" / str(number))
    row = {"prompt": "a cat", "file_path": ["a.png", "train\\b.png"], "human_preference": [1, 0]}
    (tmp_path / "blobs" / "0").write_text(json.dumps([row]))
    assert HPDv2().recognises(snapshot)
    assert list(HPDv2().pairs(snapshot)) == [
        Preference("a cat", snapshot / "train" / "a.png", snapshot / "train" / "b.png")
    ]


ROW = {"prompt": "a cat", "file_path": ["0.jpg", "1.jpg", "2.jpg"], "human_preference": 2, "user_hash": "x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "preference_train.json").write_text(json.dumps([ROW]))
    (tmp_path / "preference_test.json").write_text(json.dumps([ROW, ROW]))
    return tmp_path


def test_the_preferred_image_wins_over_each_of_the_others(folder: Path) -> None:
    file = folder / "preference_train.json"
    assert isinstance(recognise_format(file, PairSet), HPDv1) and not HPDv2().recognises(file)
    (folder / "preference_images").mkdir()
    (folder / "preference_images" / "2.jpg").write_bytes(b"")
    best, beside = folder / "preference_images" / "2.jpg", folder / "preference_train"
    wanted = [Preference("a cat", best, beside / "0.jpg"), Preference("a cat", best, beside / "1.jpg")]
    assert list(HPDv1().pairs(file)) == wanted
    left, *pairs = HPDv1().pairs(folder)
    assert pairs == wanted and isinstance(left, LeftOut) and (left.where, left.count) == ("preference_test.json", 2)


@pytest.mark.parametrize("best", [3, -1, True, None, "2", [0, 1]])
def test_a_number_that_is_none_of_its_images_is_counted(folder: Path, best: Any) -> None:
    file = folder / "preference_train.json"
    file.write_text(json.dumps([ROW, ROW | {"human_preference": best}]))
    assert HPDv1().recognises(file)
    assert list(HPDv1().pairs(file))[2:] == [
        LeftOut("the number under 'human_preference' is none of its images'", "item 2")
    ]
