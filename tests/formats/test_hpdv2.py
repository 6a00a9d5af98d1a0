import json
from pathlib import Path

import pytest

from agfsync.errors import FormatError
from agfsync.formats import NoPreference, Preference
from agfsync.formats.hpdv2 import HPDv2

TRAIN = [{"prompt": "a cat", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]}]
TEST = [{"prompt": "a dog", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [3, 1, 1], "raw_annotations": []}]


def test_who_is_preferred_wins_and_the_lower_rank(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    (tmp_path / "test.json").write_text(json.dumps(TEST))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.jpg").write_bytes(b"")
    assert HPDv2().recognises(tmp_path) and HPDv2().recognises(tmp_path / "test.json")
    assert list(HPDv2().pairs(tmp_path)) == [
        Preference("a cat", tmp_path / "train" / "1.jpg", tmp_path / "0.jpg"),
        Preference("a dog", tmp_path / "b.jpg", tmp_path / "a.jpg"),
        Preference("a dog", tmp_path / "c.jpg", tmp_path / "a.jpg"),
        NoPreference("a dog"),
    ]


def test_as_many_ranks_as_pictures_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([TRAIN[0] | {"human_preference": [1]}]))
    with pytest.raises(FormatError, match="no list of the right length under 'human_preference'"):
        list(HPDv2().pairs(file))
