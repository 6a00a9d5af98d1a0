"""Writers of captions and questions, and polishers of prompts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agfsync.records import AnswerWord


@dataclass(frozen=True, slots=True)
class QuestionDraft:
    """An unchecked question of a writer. `valid` is the writer's own flag.

    `expected` is the answer that the question needs to be kept: "no" for a foil, which asks for something that the
    caption rules out.
    """

    text: str
    answer: str
    element: str
    element_type: str
    valid: bool = True
    expected: AnswerWord = "yes"


@dataclass(frozen=True, slots=True)
class PolishedPrompt:
    """An unchecked prompt of a polisher, with a short description of the changes; empty if there are none."""

    text: str
    changed: str = ""


@dataclass(frozen=True, slots=True)
class UnpolishedPrompt:
    """The reason why a prompt can't be used, and the polisher's own explanation."""

    reason: str
    said: str = ""


class Writer(Protocol):
    """The common part of all writers.

    A class with `needs_model = True` is constructed with an `Endpoint` and a `Meter`, any other without arguments.
    """

    identity: str
    """Digest or name of everything that affects this writer's texts; part of the keys."""
    concurrency: int
    """Number of simultaneous calls, each in its own thread."""


class CaptionWriter(Writer, Protocol):
    """A writer of captions."""

    @property
    def categories(self) -> Sequence[str]:
        """The supported categories, in order."""
        ...

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        """Return about `count` captions of `category` that aren't in `avoid`; fewer if there are no more.

        Args:
            avoid: existing captions of the category, in the order of writing.

        Raises:
            NoReplyError: a language model gave no reply that can be read.
            BudgetError: a cap is reached.
        """
        ...


class QuestionWriter(Writer, Protocol):
    """A writer of yes/no questions on a caption."""

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        """Return atomic questions that `caption` answers.

        Raises:
            NoReplyError: a language model gave no reply that can be read.
            BudgetError: a cap is reached.
        """
        ...


@runtime_checkable
class Verifier(Protocol):
    """A question writer that also checks what a caption answers."""

    def verify(self, caption: str, questions: Sequence[str], seed: int) -> Sequence[bool]:
        """Return, for each of `questions`, True if `caption` alone answers it with yes.

        Raises:
            NoReplyError: a language model gave no reply that can be read.
            BudgetError: a cap is reached.
        """
        ...


class Polisher(Writer, Protocol):
    """A rewriter of prompts."""

    at_once: int
    """Number of prompts per call."""

    def polish(self, prompts: Sequence[str], seed: int) -> Sequence[PolishedPrompt | UnpolishedPrompt]:
        """Return the result for each of `prompts`, in order.

        Raises:
            BudgetError: a cap is reached.
        """
        ...
