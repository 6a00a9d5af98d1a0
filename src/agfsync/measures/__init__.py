"""Scores of benchmarks by their own rules: (a model's judged images of a set) -> figures, one file a rule.

A measure is a pure function, called for each judge, once for the base's images and once for the aligned model's. It
names the same figures for both; what can't be computed is absent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agfsync.records import Answer, Question


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """A judge's score of the one image of a caption, 0..100, with its answers to the caption's questions, if any."""

    category: str
    value: float
    questions: Sequence[Question] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """by the question's key"""

    def list_right(self) -> dict[str, bool]:
        """Return, by the key of each question that was answered, True if the answer is the expected one."""
        return {q.key: self.answers[q.key].answer == q.answer for q in self.questions if q.key in self.answers}


Figures = dict[str, float]
"""Figures by their names, in percent unless the name says otherwise."""
Measure = Callable[[Sequence[JudgedImage]], Figures]
