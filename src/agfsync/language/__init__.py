"""What writes captions and questions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class QuestionDraft:
    """A question as a writer gave it, nothing of it checked yet. `valid` is the writer's own flag (1 = valid)."""

    text: str
    answer: str
    element: str
    element_type: str
    valid: bool = True


class CaptionWriter(Protocol):
    """Writes captions of a category."""

    identity: str
    """What of this writer shapes its captions; part of their keys."""

    @property
    def categories(self) -> Sequence[str]:
        """The categories that it can write, in order."""
        ...

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        """About `count` captions of `category`, none of which should be in `avoid`; fewer means it is running dry."""
        ...


class QuestionWriter(Protocol):
    """Breaks a caption into yes/no questions."""

    identity: str

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        """Atomic questions on `caption`, each answered by it."""
        ...
