"""The files of others: prompts and pairs read, pairs written. One file a format.

A format is a class without state. It recognises what it can read, and then reads it as prompts (`PromptFile`), reads it
as pairs (`PairSet`) or writes pairs (`PairWriter`); it may do several of these.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from agfsync.records import AnswerWord, Caption, ElementType, Question

UNCATEGORISED = "uncategorised"
"""The category of a prompt whose file gives it none."""
TIE = "tie"
"""Why a pair that nobody prefers either picture of is left out."""

Picture = bytes | Path
"""A picture's file: what it holds, or where it lies, for a reader that needs no pictures need read none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A yes/no question on a prompt, and what a faithful picture answers."""

    text: str
    answer: AnswerWord
    element: str
    element_type: ElementType


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with the questions that its file has on it; `left_out` counts, by reason, those that can't be used."""

    text: str
    category: str = UNCATEGORISED
    questions: tuple[Asked, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference:
    """Of two pictures of one prompt, the one that is preferred and the other; `where` it stands, for messages."""

    prompt: str
    winner: Picture
    loser: Picture
    category: str = UNCATEGORISED
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class NoPreference:
    """Two pictures of one prompt that make no pair, because of `reason`; `where` they stand, for messages."""

    prompt: str
    reason: str = TIE
    category: str = UNCATEGORISED
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in a source that isn't read: `count` rows or files, and `where` the first of them is.

    `failed` says that it was meant to be read, so that it counts against the failure budget.
    """

    reason: str
    where: str = ""
    count: int = 1
    failed: bool = True


PairItem = Preference | NoPreference | LeftOut
"""What a pair set yields."""


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """A run's pair as others read it: pictures as encoded files, and the names of the models that drew them.

    `margin` is above 0 unless the pair is a tie. `of_prompt` is how many pairs the run has of this prompt.
    """

    key: str
    prompt: str
    category: str
    winner: bytes
    loser: bytes
    winner_key: str
    loser_key: str
    winner_score: float
    loser_score: float
    winner_model: str
    loser_model: str
    of_prompt: int

    @property
    def margin(self) -> float:
        return self.winner_score - self.loser_score


@dataclass(frozen=True, slots=True)
class Selector:
    """A scorer that took part in choosing pairs: its name and weight there, and what tells it from others.

    `identity` is the digest of its type and models, `model` the name of the one that it reads pictures with.
    """

    name: str
    weight: float
    identity: str
    model: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A run as a writer sees it. `pairs` can be gone through once: their pictures are read as they are asked for.

    `created` is the time at which the pairs were made (ISO 8601); `made_with` says what with, for people to read.
    `selected_by` are the scorers that chose the pairs, for programs; None where that isn't known.
    """

    name: str
    created: str
    made_with: Mapping[str, str]
    captions: Iterable[Caption]
    questions: Iterable[Question]
    pairs: Iterable[WrittenPair]
    selected_by: Sequence[Selector] | None = None


@runtime_checkable
class Format(Protocol):
    """What every format has: what it is called in a sentence, and how it is recognised."""

    title: str

    def recognises(self, path: Path) -> bool:
        """Whether the file or folder at `path` looks like one of this format; reads no more than its beginning."""
        ...


@runtime_checkable
class PromptFile(Format, Protocol):
    """A format that holds prompts."""

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts in the order of the file, repeated ones included, and everything that isn't read.

        Args:
            split: of a folder with several; empty: its train split (see `splits`).

        Raises:
            FormatError: the file isn't what the format says, and where; or it has no such split.
        """
        ...


@runtime_checkable
class PairSet(Format, Protocol):
    """A format that holds pairs."""

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield every pair of pictures, ties included, and everything that isn't read; the pictures aren't checked.

        Args:
            split: of a folder with several; empty: its train split (see `splits`).

        Raises:
            FormatError: the file isn't what the format says, and where; or it has no such split.
        """
        ...


@runtime_checkable
class PairWriter(Format, Protocol):
    """A format that a run's pairs can be written in."""

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Fill the empty `folder`; how many `pairs` it holds now, and how many `ties` were dropped.

        Memory holds a few pictures at a time, however many pairs there are.
        """
        ...
