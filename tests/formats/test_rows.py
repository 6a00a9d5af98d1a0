from pathlib import Path
from typing import Any

import pytest

from agfsync.errors import FormatError
from agfsync.formats import Asked, Prompt, rows

FILE = Path("file")


def read(*found: dict[str, Any]) -> list[Prompt]:
    return list(rows.prompts(found, FILE))


@pytest.mark.parametrize("name", ["prompt", "Prompts", "caption", "TEXT"])
def test_the_prompt_is_found_by_its_columns_usual_names(name: str) -> None:
    assert read({"id": 1, name: "a  cat", "Category": "animals"}) == [Prompt("a cat", "animals")]


def test_without_a_category_it_is_uncategorised() -> None:
    assert read({"text": "a cat"}, {"text": "a cat", "category": ""}) == [Prompt("a cat", "uncategorised")] * 2


def test_a_row_without_a_prompt_is_told() -> None:
    with pytest.raises(FormatError, match="file: a row has no text under 'prompt'"):
        read({"prompt": "", "category": "a"})
    with pytest.raises(FormatError, match="no text under 'prompt'"):
        read({"category": "a"})


def test_neighbouring_rows_with_questions_on_one_prompt_are_that_prompt() -> None:
    common = {"caption": "a cat", "category": "animals", "element_type": "animal", "element": "cat"}
    (found,) = read(
        common | {"question": "Is there a cat?", "answer": "yes"},
        common | {"question": "How many?", "answer": "one"},
        common | {"question": "Is it a dog?", "answer": "No"},
    )
    assert found.questions == (
        Asked("Is there a cat?", "yes", "cat", "animal"),
        Asked("Is it a dog?", "no", "cat", "animal"),
    )
    assert found.left_out == {"answer is neither yes nor no": 1}


def test_a_row_may_hold_a_list_of_questions() -> None:
    good = {"question": "Is there a cat?", "answer": "yes", "element": "cat", "element_type": "animal", "flag": 1}
    (found,) = read({"text": "a cat", "questions": [good, good | {"flag": 0}, "Is it nice?"]})
    assert found.questions == (Asked("Is there a cat?", "yes", "cat", "animal"),)
    assert found.left_out == {"called invalid by its writer": 1, "no answer given": 1}


def test_a_table_of_questions_holds_no_prompts() -> None:
    assert rows.column(["key", "caption_key", "text"]) is None
