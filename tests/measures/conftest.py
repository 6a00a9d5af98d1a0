"""A judged image of some questions, each with its text, its parents, its expected answer and the probability of yes."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agfsync.measures import JudgedImage
from agfsync.records import Answer, Question

Asked = tuple[str, Sequence[str], Any, float]


@pytest.fixture
def judge() -> Callable[..., JudgedImage]:
    def make(*asked: Asked, element_type: Any = "object", category: str = "coco") -> JudgedImage:
        questions = [
            Question(text, "c", text, answer, "", element_type, tuple(parents)) for text, parents, answer, _ in asked
        ]
        answers = {text: Answer(text, "yes" if p > 0.5 else "no", p) for text, _, _, p in asked}
        right = [answers[q.key].answer == q.answer for q in questions]
        return JudgedImage(category, 100 * sum(right) / len(right), questions, answers)

    return make
