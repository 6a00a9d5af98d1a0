"""From P(yes) of each question to a picture's value (Eq. 2)."""

import math
from collections.abc import Sequence

from agfsync.records import Answer, Question
from agfsync.scorers import Measurement, Unscored


def judged(questions: Sequence[Question], p_yes: Sequence[float]) -> Measurement | Unscored:
    """100 x the share of `questions` that are answered as the caption does: yes where P(yes) is above one half.

    `p_yes` lies on 0..1, one for each question, in order.
    """
    if not questions:
        return Unscored("no questions")
    if not all(map(math.isfinite, p_yes)):
        return Unscored("the model's answer is not a number")
    answers = tuple(Answer(q.key, "yes" if p > 0.5 else "no", p) for q, p in zip(questions, p_yes, strict=True))
    correct = sum(question.answer == answer.answer for question, answer in zip(questions, answers, strict=True))
    return Measurement(100 * correct / len(questions), answers)
