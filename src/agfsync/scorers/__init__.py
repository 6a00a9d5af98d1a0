"""What turns (prompt, questions, image) into a number on 0..100."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from agfsync.errors import BudgetError
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

    @property
    def value(self) -> None:
        """None, as there is no value."""
        return None


class CapReached(BudgetError):
    """A judge's model may cost no more; `results` are those of the first items, which it had judged before."""

    def __init__(self, message: str, results: Sequence[Measurement | Unscored]) -> None:
        super().__init__(message)
        self.results = results


class Scorer(Protocol):
    """A judge of pictures. One result for each item, in order; an item that can't be judged is `Unscored`, never 0.

    One that asks a model behind a server is made with a `Meter` as `meter`, which counts what that costs.
    """

    asks_questions: bool
    """Whether the value depends on the items' questions."""

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        """One result for each item.

        Raises:
            CapReached: the model behind it may cost no more.
        """
        ...
