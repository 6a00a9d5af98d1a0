import dataclasses
from typing import Any

import pytest

from agfsync.errors import BudgetError
from agfsync.language import QuestionDraft
from agfsync.records import Caption, Question
from agfsync.stages import Context, captions, captions_to_draw, questions, questions_by_caption

CAPTION = Caption("c", "Two red stars on a blue ground", "counts", "train")
GOOD = QuestionDraft("Are there two stars?", "Yes", "star", "Counting")


def test_a_good_question_stands() -> None:
    (kept,) = questions.sift(CAPTION, [GOOD]).records
    assert isinstance(kept, Question)
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
        ({"element_type": "age"}, "unknown element type"),
        ({"element": "unicorn"}, "element isn't in the caption"),
        ({"element": ""}, "element isn't in the caption"),
        ({"element": "a unicorn on the"}, "element isn't in the caption"),
    ],
)
def test_a_bad_question_is_dropped_for_its_reason(fault: dict[str, Any], reason: str) -> None:
    sifted = questions.sift(CAPTION, [dataclasses.replace(GOOD, **fault)])
    assert (sifted.records, sifted.dropped) == ([], {reason: 1})


def test_a_repeated_question_is_kept_once() -> None:
    again = dataclasses.replace(GOOD, text="are there TWO stars")
    sifted = questions.sift(CAPTION, [GOOD, again])
    assert (len(sifted.records), sifted.dropped) == (1, {"repeated": 1})


def test_every_caption_gets_its_questions(context: Context) -> None:
    captions.run(context)
    notes = questions.run(context)
    assert notes["questions"] == 3 * 17
    assert notes["dropped"]["answer isn't yes"] == 2 * 17
    assert {len(asked) for asked in questions_by_caption(context).values()} == {3}
    assert len(captions_to_draw(context, "train")) == 12


def test_a_caption_with_too_few_is_quarantined_and_not_drawn(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    odd = [Caption("odd", "animals number 7777", "animals", "train"), Caption("k", "food number 1", "food", "train")]
    context.run.commit("captions", {"odd": odd[:1], "even": odd[1:]}, Caption.schema)
    context.run.select("captions", ["odd", "even"])
    with pytest.raises(
        BudgetError, match=r"1 of 2 captions failed.*fewer valid questions than questions.minimum \(1\)"
    ):
        questions.run(context)
    notes = questions.run(dataclasses.replace(context, recipe=make_recipe(failure_budget=0.5)))
    assert notes["quarantined"] == 1
    assert captions_to_draw(context, "train") == odd[1:]


def test_another_minimum_asks_nobody_again(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    questions.run(context)
    done = context.run.done("questions")
    with pytest.raises(BudgetError):
        questions.run(dataclasses.replace(context, recipe=make_recipe(questions={"minimum": 4})))
    context.run.reopen("questions")
    assert questions.run(context)["questions"] == 3 * 17
    assert context.run.done("questions") == done


def test_a_round_without_a_reply_is_counted_and_a_caption_without_any_is_quarantined(
    context: Context, make_recipe: Any
) -> None:
    captions.run(context)
    mute = make_recipe(questions={"writer": "mute", "rounds": 2}, failure_budget=1.0)
    notes = questions.run(dataclasses.replace(context, recipe=mute))
    reasons = context.run.failures("questions")
    assert 0 < notes["quarantined"] == len(reasons) < 17 and set(reasons.values()) == {"the server is asleep"}
    assert notes["dropped"]["round without a reply"] + 2 * len(reasons) <= 2 * 17
    assert len(questions_by_caption(context)) == 17 - len(reasons)


def test_questions_that_are_not_confirmed_are_dropped(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    mute = make_recipe(questions={"writer": "mute", "rounds": 9, "verify": True}, failure_budget=1.0)
    notes = questions.run(dataclasses.replace(context, recipe=mute))
    made = questions_by_caption(context)
    assert notes["dropped"]["not confirmed on second reading"] == len(made) > 0
    assert {len(asked) for asked in made.values()} == {2}
