"""What turns (prompt, questions, image) into a number on 0..100."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from agfsync.records import Answer, Question


@dataclass(frozen=True, slots=True)
class Item:
    """What there is to judge: an RGB image beside its prompt and the prompt's questions."""

    prompt: str
    questions: tuple[Question, ...]
    image: Image.Image


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value on 0..100, with the answers it rests on where the scorer asks questions."""

    value: float
    answers: tuple[Answer, ...] = ()
    truncated: bool = False
    """Whether the scorer saw the beginning of the prompt only."""


@dataclass(frozen=True, slots=True)
class Unscored:
    """No value, because of `reason`."""

    reason: str


class Scorer(Protocol):
    """A judge of pictures. One result for each item, in order; an item that can't be judged is `Unscored`, never 0."""

    asks_questions: bool
    """Whether the value depends on the items' questions."""

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]: ...
