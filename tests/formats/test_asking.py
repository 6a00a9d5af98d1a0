from typing import Any

import pytest

from agfsync.formats import Asked
from agfsync.formats.asking import origin, question, sift


def test_a_yes_or_no_question_with_a_clear_answer_can_be_asked() -> None:
    asked = question("Is it  red?", "Yes.", " car ", "Color", ["yes", "No"])
    assert asked == Asked("Is it red?", "yes", "car", "color")
    assert question("Is it blue?", "no") == Asked("Is it blue?", "no", "", "other")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (("", "yes"), "empty"),
        ((None, "yes"), "empty"),
        (("What is it?", "car", "car", "object", ["car", "bus"]), "not a yes/no question"),
        (("Is it?", "yes", "it", "object", ["yes", "no", "maybe"]), "not a yes/no question"),
        (("Is it?", None), "no answer given"),
        (("Is it?", "perhaps"), "answer is neither yes nor no"),
    ],
)
def test_one_that_cant_be_asked_says_why(fields: tuple[Any, ...], reason: str) -> None:
    assert question(*fields) == reason


def test_a_type_that_is_none_of_the_thirteen_is_other() -> None:
    found = question("Is there a cat?", "yes", "cat", "animal/human")
    assert isinstance(found, Asked) and found.element_type == "other"


def test_each_question_is_kept_once_and_the_others_are_counted() -> None:
    one, again = Asked("Is it?", "yes", "it", "object"), Asked("is it?", "yes", "it", "object")
    assert sift([one, "empty", again, "empty"]) == ((one,), {"empty": 2, "repeated": 1})


@pytest.mark.parametrize(
    ("identifier", "named"),
    [("coco_301091", "coco"), ("drawbench_5", "drawbench"), ("concept-art-12", "concept-art"), ("7", "7")],
)
def test_an_id_says_where_a_prompt_is_from(identifier: str, named: str) -> None:
    assert origin(identifier) == named
