import json
from pathlib import Path

import pytest

from agfsync.formats import LeftOut, Prompt, PromptFile
from agfsync.formats.mjhq import MJHQ
from agfsync.formats.sources import recognise_format

ROWS = {'a"1': {"category": "people", "prompt": "a  man"}, "b2": {"category": "logo"}, "c3": "a", "d4": {"prompt": "x"}}


def test_each_image_has_a_prompt_and_a_category(tmp_path: Path) -> None:
    file = tmp_path / "meta_data.json"
    file.write_text(json.dumps(ROWS, indent=1))
    assert isinstance(recognise_format(file, PromptFile), MJHQ)
    assert list(MJHQ().prompts(file)) == [
        Prompt("a man", "people"),
        LeftOut("no text under 'prompt'", "'b2'"),
        LeftOut("it is no object of names and values", "'c3'"),
        Prompt("x"),
    ]


@pytest.mark.parametrize("text", ["", "{}", '{"a": 1}', '{"a": {"prompt": "b"}}', "[]", '{"a": {"prompt": "b", "cat'])
def test_another_object_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "meta_data.json"
    file.write_text(text)
    assert not MJHQ().recognises(file)
