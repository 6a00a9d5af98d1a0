from dataclasses import replace

import pytest

from agfsync.measures import JudgedImage
from agfsync.measures.dpg import measure_dpg
from agfsync.records import Answer, Question


def asked(text: str, label: str, *parents: str) -> Question:
    return Question(text, "c", text, "yes", "", "object", parents, (), label)


QUESTIONS = [
    asked("Is there a motorcycle?", "entity - whole"),
    asked("Is there a door?", "entity - part", "is there a Motorcycle?"),
    asked("Is the door red?", "attribute - color", "Is there a door?"),
    asked("Is it parked?", "entity - state"),
]


def answered(*words: str) -> JudgedImage:
    answers = {q.key: Answer(q.key, word, 0.5) for q, word in zip(QUESTIONS, words, strict=True)}
    return JudgedImage("coco", 0.0, QUESTIONS, answers)


def test_a_wrong_answer_makes_all_that_depend_on_it_wrong() -> None:
    # Without the motorcycle there is no door, and without the door no red of it; the categories count each by itself.
    found = measure_dpg([answered("no", "yes", "yes", "yes"), answered("yes", "yes", "yes", "no")])
    assert found == pytest.approx(
        {
            "mean over captions": 100 * (1 / 4 + 3 / 4) / 2,
            "level 1, attribute": 100,
            "level 1, entity": 100 * 4 / 6,
            "level 2, attribute - color": 100,
            "level 2, entity - part": 100,
            "level 2, entity - state": 50,
            "level 2, entity - whole": 50,
        }
    )
    assert measure_dpg([JudgedImage("coco", 30.0)]) == {}


def test_a_question_that_was_not_answered_holds_none_back() -> None:
    image = answered("yes", "yes", "yes", "yes")
    rest = {key: answer for key, answer in image.answers.items() if key != QUESTIONS[0].key}
    assert measure_dpg([replace(image, answers=rest)])["mean over captions"] == 100
