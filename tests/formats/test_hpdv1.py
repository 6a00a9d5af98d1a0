import json
from pathlib import Path
from typing import Any

import pytest

from agfsync.formats import LeftOut, PairSet, Preference
from agfsync.formats.hpdv1 import HPDv1
from agfsync.formats.hpdv2 import HPDv2
from agfsync.formats.sources import recognise_format

ROW = {"prompt": "a cat", "file_path": ["0.jpg", "1.jpg", "2.jpg"], "human_preference": 2, "user_hash": "x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "preference_train.json").write_text(json.dumps([ROW]))
    (tmp_path / "preference_test.json").write_text(json.dumps([ROW, ROW]))
    return tmp_path


def test_the_preferred_picture_wins_over_each_of_the_others(folder: Path) -> None:
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
def test_a_number_that_is_none_of_its_pictures_is_counted(folder: Path, best: Any) -> None:
    file = folder / "preference_train.json"
    file.write_text(json.dumps([ROW, ROW | {"human_preference": best}]))
    assert HPDv1().recognises(file)
    assert list(HPDv1().pairs(file))[2:] == [
        LeftOut("the number under 'human_preference' is none of its pictures'", "item 2")
    ]
