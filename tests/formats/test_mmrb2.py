import json
from pathlib import Path
from typing import Any

import pytest

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, NoPreference, PairSet, Preference
from agfsync.formats.mmrb2 import MMRB2
from agfsync.formats.sources import recognise_format


def pair(number: int, chosen: str | None, prompt: list[Any], images: int = 1) -> dict[str, Any]:
    sides = {
        f"response_{letter}": {
            "model_name": "m",
            "response_content": [["image", f"images/{number}_{place}.jpg"]] * images,
        }
        for place, letter in enumerate("ab")
    }
    return {"id": str(number), "chosen": chosen, "prompt_source": "wise", "prompt_content": prompt, **sides}


def test_the_chosen_response_wins(tmp_path: Path) -> None:
    text = [["text", "a pine tree"]]
    rows = [
        pair(0, "A", text),
        pair(1, "B", text),
        pair(2, None, text),
        pair(3, "A", [["image", "input_images/x.jpg"], ["text", "make it red"]]),
        pair(4, "A", text, images=2),
        "no object",
    ]
    file = tmp_path / "t2i.json"
    file.write_text(json.dumps({"pairs": rows}, indent=2))
    for path in (file, tmp_path):
        assert isinstance(recognise_format(path, PairSet), MMRB2)
        assert list(MMRB2().pairs(path)) == [
            Preference("a pine tree", tmp_path / "images/0_0.jpg", tmp_path / "images/0_1.jpg", "wise"),
            Preference("a pine tree", tmp_path / "images/1_1.jpg", tmp_path / "images/1_0.jpg", "wise"),
            NoPreference("a pine tree", "no label", "wise"),
            LeftOut("the prompt isn't text alone: it is no pair of text-to-image models", "item 4"),
            LeftOut("not one image under 'response_a'", "item 5"),
            LeftOut("it is no object", "item 6"),
        ]


def test_a_file_that_is_cut_short_is_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "t2i.json"
    file.write_text('{"pairs": [{"id": "1",')
    assert MMRB2().recognises(file)
    with pytest.raises(FormatError, match="t2i.json: holds what can't be read"):
        list(MMRB2().pairs(file))


def test_other_files_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"prompt": "a"}]')
    assert not any(MMRB2().recognises(path) for path in (tmp_path, tmp_path / "list.json", tmp_path / "none.json"))
