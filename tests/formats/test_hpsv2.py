import json
from pathlib import Path

import pytest

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt
from agfsync.formats.hpsv2 import HPSv2


def test_a_style_is_a_category_in_the_folder_and_by_itself(tmp_path: Path) -> None:
    (tmp_path / "photo.json").write_text(json.dumps(["a  cat", ""]))
    (tmp_path / "anime.json").write_text(json.dumps(["a girl"]))
    assert HPSv2().recognises(tmp_path) and HPSv2().recognises(tmp_path / "photo.json")
    cat, lacks = Prompt("a cat", "photo"), "no text under 'text'"
    assert list(HPSv2().prompts(tmp_path)) == [
        Prompt("a girl", "anime"),
        cat,
        LeftOut(lacks, "photo.json: item 2"),
    ]
    assert list(HPSv2().prompts(tmp_path / "photo.json")) == [cat, LeftOut(lacks, "item 2")]


def test_another_list_or_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "photo.json").write_text(json.dumps([{"prompt": "a cat"}]))
    (tmp_path / "cats.json").write_text(json.dumps(["a cat"]))
    assert not any(HPSv2().recognises(path) for path in (tmp_path, tmp_path / "photo.json", tmp_path / "cats.json"))


def test_a_split_that_it_has_not_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photo.json").write_text(json.dumps(["a cat"]))
    with pytest.raises(FormatError, match="validation"):
        list(HPSv2().prompts(tmp_path, "validation"))
