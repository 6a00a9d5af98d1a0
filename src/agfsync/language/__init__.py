"""What writes captions and questions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agfsync.records import AnswerWord


@dataclass(frozen=True, slots=True)
class QuestionDraft:
    """A question as a writer gave it, nothing of it checked yet. `valid` is the writer's own flag (1 = valid).

    `expected` is the answer that the question must have to be kept: "no" for a foil, which asks about what the caption
    rules out.
    """

    text: str
    answer: str
    element: str
    element_type: str
    valid: bool = True
    expected: AnswerWord = "yes"


class Writer(Protocol):
    """What every writer has.

    A class with `needs_model = True` is made with an `Endpoint` and a `Meter`, any other one with nothing.
    """

    identity: str
    """What of this writer shapes what it writes; part of the keys."""
    concurrency: int
    """How many calls it answers at a time, each from a thread of its own."""


class CaptionWriter(Writer, Protocol):
    """Writes captions of a category."""

    @property
    def categories(self) -> Sequence[str]:
        """The categories that it can write, in order."""
        ...

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        """About `count` captions of `category`, none of which should be in `avoid`; fewer means it is running dry.

        `avoid` are the category's captions that are there already, in the order of writing.

        Raises:
            NoReplyError: a language model gave nothing that can be read. BudgetError: it may cost no more.
        """
        ...


class QuestionWriter(Writer, Protocol):
    """Breaks a caption into yes/no questions."""

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        """Atomic questions on `caption`, each answered by it.

        Raises:
            NoReplyError: a language model gave nothing that can be read. BudgetError: it may cost no more.
        """
        ...


@runtime_checkable
class Verifier(Protocol):
    """A question writer that also reads a caption again to see what it answers."""

    def verify(self, caption: str, questions: Sequence[str], seed: int) -> Sequence[bool]:
        """For each of `questions`, whether `caption` alone answers it with yes.

        Raises:
            NoReplyError: a language model gave nothing that can be read. BudgetError: it may cost no more.
        """
        ...
