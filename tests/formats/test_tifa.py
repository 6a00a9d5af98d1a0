import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agfsync.formats import LeftOut, SourceQuestion
from agfsync.formats.tifa import Tifa

INPUTS = [{"id": "coco_1", "caption": "a cat", "coco_val_id": "7"}, {"id": "drawbench_2", "caption": "two dogs"}]


def asked(identifier: str, question: str, answer: str, *choices: str) -> dict[str, Any]:
    caption = {each["id"]: each["caption"] for each in INPUTS}[identifier]
    fields = {"question": question, "choices": list(choices), "answer": answer}
    return {"id": identifier, "caption": caption, "element_type": "animal/human", "element": "cat"} | fields


ANSWERS = [
    asked("coco_1", "is there a cat?", "yes", "yes", "no"),
    asked("coco_1", "what is it?", "cat", "cat", "dog"),
    asked("drawbench_2", "are there cats?", "no", "yes", "no"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tifa_text_inputs.json").write_text(json.dumps(INPUTS))
    (tmp_path / "tifa_question_answers.json").write_text(json.dumps(ANSWERS))
    return tmp_path


@pytest.mark.parametrize("name", ["", "tifa_question_answers.json"])
def test_the_questions_bring_their_captions_and_a_folder_brings_both(folder: Path, name: str) -> None:
    cat, dogs = Tifa().prompts(folder / name)
    assert (cat.text, cat.category, dogs.text, dogs.category) == ("a cat", "coco", "two dogs", "drawbench")
    assert cat.questions == (
        SourceQuestion("is there a cat?", "yes", "cat", "other", (), ("yes", "no"), "animal/human"),
        SourceQuestion("what is it?", "cat", "cat", "other", (), ("cat", "dog"), "animal/human"),
    )
    assert cat.left_out == {}
    assert [each.answer for each in dogs.questions] == ["no"]


def test_the_captions_by_themselves_have_no_questions(folder: Path) -> None:
    assert [p.questions for p in Tifa().prompts(folder / "tifa_text_inputs.json")] == [(), ()]


def test_a_folder_with_several_is_no_tifa_folder(folder: Path) -> None:
    assert Tifa().recognises(folder)
    (folder / "other_text_inputs.json").write_text("[]")
    assert not Tifa().recognises(folder)


def test_a_question_without_choices_is_counted(folder: Path) -> None:
    file = folder / "tifa_question_answers.json"
    file.write_text(json.dumps([ANSWERS[0] | {"choices": None}]))
    assert list(Tifa().prompts(file)) == [LeftOut("no list of the right length under 'choices'", "item 1")]


def test_the_real_captions_are_all_there(real: Callable[[str], Path]) -> None:
    file = real("tifa_v1.0_text_inputs.json")
    found = list(Tifa().prompts(file))
    assert Tifa().recognises(file)
    assert len(found) == len(json.loads(file.read_text())) == 4081
    assert Counter(p.category for p in found) == {
        "coco": 2000,
        "partiprompt": 1420,
        "paintskill": 500,
        "drawbench": 161,
    }


def test_all_questions_of_the_real_sample_can_be_asked(real: Callable[[str], Path]) -> None:
    file = real("tifa_sample_question_answers.json")
    items = json.loads(file.read_text())
    found = list(Tifa().prompts(file))
    assert [p.text for p in found] == list(dict.fromkeys(item["caption"] for item in items))
    asked = [(each.text, each.answer, list(each.choices)) for p in found for each in p.questions]
    assert asked == [(item["question"], item["answer"], item["choices"]) for item in items]
    assert not any(p.left_out for p in found)
    assert len(list(Tifa().prompts(real("tifa_sample_text_inputs.json")))) == 2
