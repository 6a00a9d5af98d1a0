import dataclasses
from typing import Any

import pytest

from agfsync.language import QuestionDraft
from agfsync.records import Caption
from agfsync.stages.checking import sift_captions, sift_questions

CAPTION = Caption("c", "Two red stars on a blue ground", "counts", "train")
GOOD = QuestionDraft("Are there two stars?", "Yes", "star", "Counting")


def test_a_good_question_stands() -> None:
    (kept,), _ = sift_questions(CAPTION, [GOOD])
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
    assert sift_questions(CAPTION, [dataclasses.replace(GOOD, **fault)]) == ([], {reason: 1})


def test_a_foil_is_kept_with_the_answer_no() -> None:
    foil = dataclasses.replace(GOOD, text="Are there three stars?", answer="No.", expected="no")
    kept, dropped = sift_questions(CAPTION, [GOOD, foil])
    assert [(each.text, each.answer) for each in kept] == [(GOOD.text, "yes"), (foil.text, "no")] and not dropped


def test_a_repeated_question_is_kept_once() -> None:
    again = dataclasses.replace(GOOD, text="are there TWO stars")
    kept, dropped = sift_questions(CAPTION, [GOOD, again])
    assert (len(kept), dropped) == (1, {"repeated": 1})


def test_a_paraphrase_is_dropped_by_its_own_reason() -> None:
    again = dataclasses.replace(GOOD, text="Does the picture show two stars?")
    other = dataclasses.replace(GOOD, text="Are there two red stars?")
    assert sift_questions(CAPTION, [GOOD, again, other])[1] == {}
    kept, dropped = sift_questions(CAPTION, [GOOD, again, other], similarity=0.8)
    assert ([question.text for question in kept], dropped) == ([GOOD.text, other.text], {"nearly repeated": 1})


def test_captions_of_too_few_or_too_many_words_are_left_out_with_the_reason() -> None:
    texts = ["A red star", "A red star on a blue ground", "word " * 9, "?!", "一颗红色的星星在蓝色的地上", "x" * 1001]
    kept, left_out = sift_captions(texts, (4, 8))
    assert kept == [texts[1], texts[4]]
    assert left_out == {"fewer than 4 words": 1, "more than 8 words": 1, "empty": 1, "too long": 1}
    assert sift_captions(texts)[0] == [*texts[:3], texts[4]]


def test_another_control_character_makes_no_other_question() -> None:
    again = [
        dataclasses.replace(GOOD, text=text) for text in ("Are there\x00two stars?", "Are there two\ud800 stars?\x1b")
    ]
    kept, dropped = sift_questions(CAPTION, [GOOD, *again], similarity=0.8)
    assert (len(kept), dropped) == (1, {"repeated": 2})
