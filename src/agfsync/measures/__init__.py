"""Scores of benchmarks by their own rules: (a model's judged images of a prompt set) -> figures; one file per rule.

A measure is a pure function. It is called for each judge, once with the base's images and once with the aligned
model's, and gives both the same names of figures. Figures that can't be computed are absent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agfsync.records import Answer, Question


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """A judge's score of a caption's only image, in 0..100, with its answers to the caption's questions, if any."""

    category: str
    value: float
    questions: Sequence[Question] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """by the question's key"""

    def list_right(self) -> dict[str, bool]:
        """Return, for the key of each answered question, True if the answer is the expected one."""
        return {q.key: self.answers[q.key].answer == q.answer for q in self.questions if q.key in self.answers}


Figures = dict[str, float]
"""Figures by their names, in percent unless the name says otherwise."""
Measure = Callable[[Sequence[JudgedImage]], Figures]
