from pathlib import Path
from typing import Any

import pytest

from agfsync.formats import LeftOut, Prompt, SourceQuestion, rows
from agfsync.formats.reading import Row
from agfsync.formats.rows import collect_questions, parse_origin, parse_question


def read(*found: dict[str, Any]) -> list[Any]:
    return list(rows.parse_prompts(Row(values, Path("file"), f"row {n}") for n, values in enumerate(found, 1)))


@pytest.mark.parametrize("name", ["prompt", "Prompts", "caption", "TEXT"])
def test_the_prompt_is_found_by_its_columns_usual_names(name: str) -> None:
    assert read({"id": 1, name: "a  cat", "Category": "animals"}) == [Prompt("a cat", "animals")]


def test_without_a_category_it_is_uncategorised() -> None:
    assert read({"text": "a cat"}, {"text": "a cat", "category": ""}) == [Prompt("a cat", "uncategorised")] * 2


def test_a_row_without_a_prompt_is_counted_with_its_place() -> None:
    lacks = "no text under 'prompt'"
    found = read({"prompt": "a cat"}, {"prompt": " ", "category": "a"}, {"category": "a"}, {"prompt": None})
    assert found == [LeftOut(lacks, "row 2"), LeftOut(lacks, "row 3"), LeftOut(lacks, "row 4"), Prompt("a cat")]


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "__index_level_0__", "index"])
def test_the_nameless_column_that_pandas_writes_is_never_the_category(index: str) -> None:
    assert read({index: 7, "prompt": "a cat"}) == [Prompt("a cat", "uncategorised")]
    assert read({index: "seven", "prompt": "a cat", "category": None}) == [Prompt("a cat", "uncategorised")]


def test_an_unusable_row_does_not_part_the_questions_on_a_prompt() -> None:
    asked = {"prompt": "a cat", "answer": "yes"}
    found = read(asked | {"question": "Is it?"}, {"prompt": None}, asked | {"question": "Is it so?"})
    assert [each.reason for each in found if isinstance(each, LeftOut)] == ["no text under 'prompt'"]
    assert [len(each.questions) for each in found if isinstance(each, Prompt)] == [2]


def test_neighbouring_rows_with_questions_on_one_prompt_are_that_prompt() -> None:
    common = {"caption": "a cat", "category": "animals", "element_type": "animal", "element": "cat"}
    (found,) = read(
        common | {"question": "Is there a cat?", "answer": "yes"},
        common | {"question": "How many?", "answer": "one"},
        common | {"question": "Is it a dog?", "answer": "No"},
    )
    assert found.questions == (
        SourceQuestion("Is there a cat?", "yes", "cat", "animal"),
        SourceQuestion("How many?", "one", "cat", "animal"),
        SourceQuestion("Is it a dog?", "no", "cat", "animal"),
    )
    assert found.left_out == {}


def test_a_row_may_hold_a_list_of_questions() -> None:
    good = {"question": "Is there a cat?", "answer": "yes", "element": "cat", "element_type": "animal", "flag": 1}
    (found,) = read({"text": "a cat", "questions": [good, good | {"flag": 0}, "Is it nice?"]})
    assert found.questions == (SourceQuestion("Is there a cat?", "yes", "cat", "animal"),)
    assert found.left_out == {"called invalid by its writer": 1, "no answer given": 1}


def test_a_table_of_questions_holds_no_prompts() -> None:
    assert rows.find_column(["key", "caption_key", "text"]) is None


def test_columns_of_questions_may_be_in_any_case() -> None:
    (found,) = read(
        {"Prompt": "a cat", "Question": "Is there a cat?", "Answer": "yes", "Element": "cat", "Element_Type": "animal"}
    )
    assert found.questions == (SourceQuestion("Is there a cat?", "yes", "cat", "animal"),)


def test_a_yes_or_no_question_with_a_clear_answer_can_be_asked() -> None:
    asked = parse_question("Is it  red?", "Yes.", " car ", "Color", ["yes", "No"])
    assert asked == SourceQuestion("Is it red?", "yes", "car", "color", (), ("yes", "no"))
    assert parse_question("Is it blue?", "no") == SourceQuestion("Is it blue?", "no", "", "other")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (("", "yes"), "empty"),
        ((None, "yes"), "empty"),
        (("What is it?", "car", "car", "object", ["tram", "bus"]), "answer is none of its choices"),
        (("Is it?", None), "no answer given"),
        (("What is it?", "a car of two colors"), "answer has more than 3 words"),
    ],
)
def test_one_that_cant_be_asked_says_why(fields: tuple[Any, ...], reason: str) -> None:
    assert parse_question(*fields) == reason


def test_an_answer_may_be_any_short_word_or_one_of_the_choices() -> None:
    chosen = parse_question("What is it?", " Blue car", "car", "object", ["Blue car", "a bus", "YES"], "kind")
    assert chosen == SourceQuestion(
        "What is it?", "Blue car", "car", "object", (), ("Blue car", "a bus", "yes"), "kind"
    )
    assert parse_question("How many?", 3) == SourceQuestion("How many?", "3", "", "other")


def test_choices_in_a_table_have_bars_between_them() -> None:
    asked = {"question": "What is it?", "answer": "car"}
    for choices in ("car | bus", ["car", "bus"]):
        (found,) = read({"prompt": "a car", **asked, "choices": choices})
        assert found.questions[0].choices == ("car", "bus")


def test_a_type_that_is_none_of_the_thirteen_is_other() -> None:
    found = parse_question("Is there a cat?", "yes", "cat", "animal/human")
    assert isinstance(found, SourceQuestion) and found.element_type == "other"


def test_each_question_is_kept_once_and_the_others_are_counted() -> None:
    one, again = SourceQuestion("Is it?", "yes", "it", "object"), SourceQuestion("is it?", "yes", "it", "object")
    assert collect_questions([one, "empty", again, "empty"]) == ((one,), {"empty": 2, "repeated": 1})


@pytest.mark.parametrize(
    ("identifier", "named"),
    [("coco_301091", "coco"), ("drawbench_5", "drawbench"), ("concept-art-12", "concept-art"), ("7", "7")],
)
def test_an_id_says_where_a_prompt_is_from(identifier: str, named: str) -> None:
    assert parse_origin(identifier) == named
