import dataclasses
from typing import Any

import pytest

from agfsync.language import QuestionDraft
from agfsync.records import Caption
from agfsync.stages.checking import sift

CAPTION = Caption("c", "Two red stars on a blue ground", "counts", "train")
GOOD = QuestionDraft("Are there two stars?", "Yes", "star", "Counting")


def test_a_good_question_stands() -> None:
    (kept,), _ = sift(CAPTION, [GOOD])
    assert (kept.caption_key, kept.text, kept.answer, kept.element, kept.element_type) == (
        "c",
        "Are there two stars?",
        "yes",
        "star",
        "counting",
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"valid": False}, "called invalid by its writer"),
        ({"text": " ? "}, "empty"),
        ({"answer": "no"}, "answer isn't yes"),
        ({"answer": ""}, "answer isn't yes"),
        ({"expected": "no"}, "answer isn't no"),
        ({"element_type": "age"}, "unknown element type"),
        ({"element": "unicorn"}, "element isn't in the caption"),
        ({"element": ""}, "element isn't in the caption"),
        ({"element": "a unicorn on the"}, "element isn't in the caption"),
    ],
)
def test_a_bad_question_is_dropped_for_its_reason(fault: dict[str, Any], reason: str) -> None:
    assert sift(CAPTION, [dataclasses.replace(GOOD, **fault)]) == ([], {reason: 1})


def test_a_foil_is_kept_with_the_answer_no() -> None:
    foil = dataclasses.replace(GOOD, text="Are there three stars?", answer="No.", expected="no")
    kept, dropped = sift(CAPTION, [GOOD, foil])
    assert [(each.text, each.answer) for each in kept] == [(GOOD.text, "yes"), (foil.text, "no")] and not dropped


def test_a_repeated_question_is_kept_once() -> None:
    again = dataclasses.replace(GOOD, text="are there TWO stars")
    kept, dropped = sift(CAPTION, [GOOD, again])
    assert (len(kept), dropped) == (1, {"repeated": 1})
