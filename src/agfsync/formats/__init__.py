"""Third-party files: prompts and pairs read, pairs written. One file for each format or family.

A format is a class without state. It recognises the files that it can read, and then reads prompts (`PromptFile`),
reads pairs (`PairSet`) or writes pairs (`PairWriter`); it may do several of these.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from agfsync.records import Annotation, AnswerWord, Caption, ElementType, Question

UNCATEGORISED = "uncategorised"
"""The category of a prompt whose file gives it none."""
TIE = "tie"
"""The reason why a pair with no preferred image is left out."""

ImageSource = bytes | Path
"""An image's encoded file, or its path, so that a reader that needs no images reads none."""

_PLACES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """A question on a prompt, with the answer that a faithful image gives; for its fields see `Question`."""

    text: str
    answer: str
    element: str
    element_type: ElementType
    parents: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its file's questions on it; `left_out` counts the unusable ones by reason."""

    text: str
    category: str = UNCATEGORISED
    questions: tuple[SourceQuestion, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference:
    """The preferred one of two images of a prompt, and the other; `where` is their place, for messages."""

    prompt: str
    winner: ImageSource
    loser: ImageSource
    category: str = UNCATEGORISED
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class NoPreference:
    """Two images of a prompt that make no pair, for `reason`; `where` is their place, for messages."""

    prompt: str
    reason: str = TIE
    category: str = UNCATEGORISED
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Part of a source that isn't read: `count` rows or files, the first of them at `where`.

    With `failed` it should have been read, and counts against the failure budget.
    """

    reason: str
    where: str = ""
    count: int = 1
    failed: bool = True


@dataclass(slots=True)
class LeftOutTally:
    """Counts by reason: `counts` of everything left out, `failed` of what counts against the failure budget."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """the first places of each reason, such as "row 2\""""

    def add(self, left: LeftOut) -> None:
        """Count `left`."""
        self.counts[left.reason] += left.count
        if left.failed:
            self.failed[left.reason] += left.count
        places = self.places[left.reason]
        if left.where and len(places) < _PLACES_SHOWN and left.where not in places:
            places.append(left.where)

    def lines(self, *, failed: bool = True) -> Iterator[str]:
        """Yield a line for each reason, such as "no text under 'caption' 1 (row 2)"; `failed` ones too, or not."""
        for reason, count in (self.counts if failed else self.counts - self.failed).most_common():
            yield f"{reason} {count}{format_places(self.places.get(reason, []), count)}"


def format_places(shown: list[str], count: int) -> str:
    """Return the `shown` places of `count` in brackets; empty if there are none.

    >>> format_places(["row 2", "row 3", "row 5"], 7)
    ' (row 2, row 3, row 5, ...)'
    """
    return f" ({', '.join(shown)}{', ...' if _PLACES_SHOWN == len(shown) < count else ''})" if shown else ""


PairItem = Preference | NoPreference | LeftOut
"""An item of a pair set."""


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """A pair of a run for export: images as encoded files, and the names of the models that drew them.

    `margin` is above 0 unless the pair is a tie. `of_prompt` is the number of pairs that the run has of this prompt.
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
    aspect: str = ""
    """the judge or aspect that alone chose the pair; empty if all together did"""

    @property
    def margin(self) -> float:
        """The winner's score minus the loser's."""
        return self.winner_score - self.loser_score


@dataclass(frozen=True, slots=True)
class Selector:
    """A scorer that chose pairs: its name, its weight, the digest of its type and models, and its main model."""

    name: str
    weight: float
    identity: str
    model: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A run for export. `pairs` can be iterated once: images are read as they are needed.

    `created` is the time at which the pairs were made (ISO 8601); `made_with` names the models, for people.
    `selected_by` are the scorers that chose the pairs, for programs; None if they aren't known.
    """

    name: str
    created: str
    made_with: Mapping[str, str]
    captions: Iterable[Caption]
    questions: Iterable[Question]
    pairs: Iterable[WrittenPair]
    selected_by: Sequence[Selector] | None = None
    annotations: Iterable[Annotation] | None = None
    """annotators' replies; None if none were asked"""
    agreement: Mapping[str, str] = field(default_factory=dict)
    """each annotator's aspect -> how far its replies agree with each other, for people"""


@runtime_checkable
class Format(Protocol):
    """A format: `title` names it in a sentence."""

    title: str

    def recognises(self, path: Path) -> bool:
        """Return True if the file or folder at `path` looks like this format; read no more than its beginning."""
        ...


@runtime_checkable
class PromptFile(Format, Protocol):
    """A format that holds prompts."""

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts in the order of the file, repeated ones included, and everything that isn't read.

        Args:
            split: one of a folder with several; empty: its train split (see `paths.take_split`).

        Raises:
            FormatError: the file isn't what the format says, and where; or it has no such split.
        """
        ...


@runtime_checkable
class PairSet(Format, Protocol):
    """A format that holds pairs."""

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield every pair of images, ties included, and everything that isn't read; the images aren't checked.

        Args:
            split: one of a folder with several; empty: its train split (see `paths.take_split`).

        Raises:
            FormatError: the file isn't what the format says, and where; or it has no such split.
        """
        ...


@runtime_checkable
class PairWriter(Format, Protocol):
    """A format for the pairs of a run."""

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Fill the empty `folder`; memory holds a few images at a time.

        Returns:
            How many `pairs` the folder holds, and how many `ties` were dropped.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A yes/no question on an image with its true answer; `opposite` asks it the other way round, or is empty."""

    text: str
    answer: AnswerWord
    element_type: str = "other"
    opposite: str = ""


@dataclass(frozen=True, slots=True)
class AnsweredImage:
    """An image with questions whose true answers are known; `where` is its place, for messages."""

    image: ImageSource
    questions: tuple[AnsweredQuestion, ...]
    where: str = field(default="", compare=False)


@runtime_checkable
class AnswerSet(Format, Protocol):
    """A format that holds questions on images with their true answers."""

    def answers(self, path: Path, split: str = "") -> Iterator[AnsweredImage | LeftOut]:
        """Yield the images with their questions, and everything that isn't read; the images aren't checked.

        Raises:
            FormatError: the file isn't what the format says, and where; or it has no such split.
        """
        ...
