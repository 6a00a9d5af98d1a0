import json
from pathlib import Path
from typing import Any

import pytest

from agfsync.formats import LeftOut, Prompt, PromptFile
from agfsync.formats.json_list import JsonList
from agfsync.formats.sources import recognise_format


def put(path: Path, items: Any) -> Path:
    path.write_text(json.dumps(items))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.jsonl"])
@pytest.mark.parametrize("items", [["a cat", "a dog"], [{"prompt": "a cat"}, {"prompt": "a dog"}]])
def test_texts_and_objects_are_prompts(tmp_path: Path, name: str, items: list[Any]) -> None:
    file = put(tmp_path / name, items)
    assert isinstance(recognise_format(file, PromptFile), JsonList)
    assert list(JsonList().prompts(file)) == [Prompt("a cat"), Prompt("a dog")]


@pytest.mark.parametrize("column", ["prompt", "text", "caption", "Caption"])
def test_objects_have_categories_and_questions_like_any_row(tmp_path: Path, column: str) -> None:
    row = {column: "a cat", "category": "animals", "questions": [{"question": "Is it?", "answer": "yes"}]}
    (found,) = JsonList().prompts(put(tmp_path / "a.json", [row]))
    assert isinstance(found, Prompt) and (found.text, found.category, len(found.questions)) == ("a cat", "animals", 1)


def test_items_that_are_no_prompt_are_counted(tmp_path: Path) -> None:
    found = list(JsonList().prompts(put(tmp_path / "a.json", [None, "a cat", "", 3, {"prompt": " "}, {"id": 1}])))
    assert found == [
        LeftOut("it is no object of names and values", "item 1"),
        LeftOut("no text under 'prompt'", "item 3"),
        LeftOut("it is no object of names and values", "item 4"),
        LeftOut("no text under 'prompt'", "item 5"),
        LeftOut("no text under 'prompt'", "item 6"),
        Prompt("a cat"),
    ]


@pytest.mark.parametrize("items", [[1, 2], [], {"prompt": "a cat"}, [["a cat"]], [{"loss": 1.0}]])
def test_what_holds_no_prompts_is_none(tmp_path: Path, items: Any) -> None:
    assert not JsonList().recognises(put(tmp_path / "a.json", items))
