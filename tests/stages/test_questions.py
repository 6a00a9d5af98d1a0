import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import doubles
import pytest

from agfsync.errors import BudgetError
from agfsync.language import QuestionDraft
from agfsync.records import Caption, Question
from agfsync.stages import captions, questions
from agfsync.stages.context import CaptionToDraw, Context, read_captions_to_draw


def drawn(context: Context) -> list[CaptionToDraw]:
    return [*read_captions_to_draw(context, "train"), *read_captions_to_draw(context, "held-out")]


def test_every_caption_gets_its_questions(context: Context) -> None:
    captions.run(context)
    notes = questions.run(context)
    assert notes["questions"] == 3 * 17
    assert notes["dropped"]["answer isn't yes"] == 2 * 17
    train, held_out = list(read_captions_to_draw(context, "train")), list(read_captions_to_draw(context, "held-out"))
    assert {len(each.questions) for each in train + held_out} == {3}
    assert (len(train), len(held_out)) == (12, 5)
    assert {q.caption_key for q in train[0].questions} == {train[0].key}


def test_a_caption_with_too_few_is_skipped_and_not_drawn(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    odd = [Caption("odd", "animals number 7777", "animals", "train"), Caption("k", "food number 1", "food", "train")]
    context.run.commit("captions", {"odd": odd[:1], "even": odd[1:]}, Caption.schema)
    context.run.select("captions", ["odd", "even"])
    with pytest.raises(
        BudgetError,
        match=r"1 of 2 captions skipped: fewer valid questions than questions.minimum \(1\) \('animals number 7777'\)",
    ):
        questions.run(context)
    notes = questions.run(dataclasses.replace(context, recipe=make_recipe(failure_budget=0.5)))
    assert notes["skipped"] == 1
    assert [each.caption for each in read_captions_to_draw(context, "train")] == odd[1:]


def test_another_minimum_asks_nobody_again(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    questions.run(context)
    done = set(context.run.list_made("questions"))
    with pytest.raises(BudgetError):
        questions.run(dataclasses.replace(context, recipe=make_recipe(questions={"minimum": 4})))
    context.run.reopen("questions")
    assert questions.run(context)["questions"] == 3 * 17
    assert set(context.run.list_made("questions")) == done


def test_a_caption_keeps_no_more_than_its_maximum_and_the_rest_is_counted(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    notes = questions.run(dataclasses.replace(context, recipe=make_recipe(questions={"maximum": 2})))
    assert notes["per_caption"] == 2 and notes["dropped"]["more than questions.maximum"] == 17
    assert questions.run(context)["per_caption"] == 3


def test_paraphrases_are_dropped_and_counted(
    context: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(self: object, caption: str, seed: int) -> list[QuestionDraft]:
        (word, *_) = caption.split()
        texts = (f"Is there {word}?", f"Does the picture show {word}?", f"Is {word} red?", f"Is {word} blue?")
        return [QuestionDraft(text, "yes", word, "object") for text in texts]

    monkeypatch.setattr("doubles.Writer.questions", ask)
    captions.run(context)
    notes = questions.run(dataclasses.replace(context, recipe=make_recipe(questions={"similarity": 0.8, "rounds": 1})))
    assert notes["dropped"] == {"nearly repeated": 17} and notes["per_caption"] == 3
    assert questions.run(dataclasses.replace(context, recipe=make_recipe(questions={"rounds": 1})))["per_caption"] == 4


def test_a_files_questions_are_asked_as_they_are_and_the_writer_where_it_has_none(
    context: Context, make_recipe: Any, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.csv"
    asked = ["Is there a cat?,yes,animal", "Is it a dog?,no,animal", "What is it?,,object"]
    file.write_text("prompt,question,answer,element_type\n" + "".join(f"a cat,{row}\n" for row in asked) + "bread,,,\n")
    recipe = make_recipe(captions={"source": str(file), "count": 1, "held_out": 1})
    changed = dataclasses.replace(context, recipe=recipe)
    captions.run(changed)
    notes = questions.run(changed)
    texts = {caption.key: caption.text for caption in context.run.read("captions", Caption)}
    found = [(texts[q.caption_key], q.text, q.answer) for q in context.run.read("questions", Question)]
    assert set(found) == {
        ("a cat", "Is there a cat?", "yes"),
        ("a cat", "Is it a dog?", "no"),
        ("bread", "Is there bread?", "yes"),
    }
    assert notes["dropped"]["no answer given"] == 1 and notes["skipped"] == 0


def test_a_files_questions_are_asked_of_no_writer(context: Context, make_recipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a cat", "questions": [{"question": "Is there a cat?", "answer": "yes"}]}\n')
    recipe = make_recipe(
        captions={"source": str(file), "count": 1, "held_out": 0}, questions={"writer": "mute", "verify": True}
    )
    changed = dataclasses.replace(context, recipe=recipe)
    captions.run(changed)
    assert questions.run(changed)["questions"] == 1


def test_a_file_without_questions_leaves_them_to_the_writer(context: Context, make_recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    source = {"source": str(tmp_path / "prompts.txt"), "count": 1, "held_out": 1}
    plain = dataclasses.replace(context, recipe=make_recipe(captions=source))
    captions.run(plain)
    questions.run(plain)
    assert {q.text for q in context.run.read("questions", Question)} == {
        "Is there a?",
        "Is there cat?",
        "Is there dog?",
    }


def test_a_round_without_a_reply_is_counted_and_a_caption_without_any_is_skipped(
    context: Context, make_recipe: Any
) -> None:
    captions.run(context)
    mute = make_recipe(questions={"writer": "mute", "rounds": 2}, failure_budget=1.0)
    notes = questions.run(dataclasses.replace(context, recipe=mute))
    reasons = {each.key: each.reason for each in context.run.list_skipped("questions")}
    assert 0 < notes["skipped"] == len(reasons) < 17 and set(reasons.values()) == {"the server is asleep"}
    assert notes["dropped"]["round without a reply"] + 2 * len(reasons) <= 2 * 17
    assert len(drawn(context)) == 17 - len(reasons)


def test_questions_that_are_not_confirmed_are_dropped(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    mute = make_recipe(questions={"writer": "mute", "rounds": 9, "verify": True}, failure_budget=1.0)
    notes = questions.run(dataclasses.replace(context, recipe=mute))
    made = drawn(context)
    assert notes["dropped"]["not confirmed on second reading"] == len(made) > 0
    assert {len(each.questions) for each in made} == {2}


def test_a_cap_reached_at_an_early_caption_keeps_the_later_complete_ones(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions.run(context)
    first = next(iter(context.run.read("captions", Caption))).text
    later: list[str] = []
    two_later = threading.Event()
    write = doubles.Writer.questions

    def reach_cap(self: doubles.Writer, caption: str, seed: int) -> Sequence[QuestionDraft]:
        if caption == first:
            assert two_later.wait(10)
            raise BudgetError("cap")
        later.append(caption)
        if len(later) == 2:
            # The other thread begins its second caption once its first is complete.
            two_later.set()
        return write(self, caption, seed)

    with monkeypatch.context() as patch:
        patch.setattr(doubles.Writer, "questions", reach_cap)
        patch.setattr(doubles.Writer, "concurrency", 2)
        with pytest.raises(BudgetError, match="cap"):
            questions.run(context)
    kept = set(context.run.list_made("questions"))
    assert kept
    questions.run(context)
    assert kept < set(context.run.list_made("questions")) and len(drawn(context)) == 17
