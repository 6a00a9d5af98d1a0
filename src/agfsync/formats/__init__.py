"""Third-party files: readers of prompts and pairs, and writers of pairs. Each format or family has its own module.

A format is a class without state. It recognises the files that it supports, and reads prompts (`PromptFile`), reads
pairs (`PairSet`), reads questions with true answers (`AnswerSet`) or writes pairs (`PairWriter`), or several of these.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from agfsync.records import Annotation, AnswerWord, Caption, ElementType, Question

UNCATEGORISED = "uncategorised"
"""The category of a prompt if the file gives none."""
TIE = "tie"
"""The reason why a pair with no preferred image is left out."""

ImageSource = bytes | Path
"""An image's encoded file, or its path, so that readers that don't need the images don't open them."""

_PLACES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """A question on a prompt, with the answer for a faithful image. `Question` describes the fields."""

    text: str
    answer: str
    element: str
    element_type: ElementType
    parents: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with the file's questions on it; `left_out` counts the unusable questions by reason."""

    text: str
    category: str = UNCATEGORISED
    questions: tuple[SourceQuestion, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference:
    """The preferred image and the other image of a prompt; `where` is their place in the source, for messages."""

    prompt: str
    winner: ImageSource
    loser: ImageSource
    category: str = UNCATEGORISED
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class NoPreference:
    """Two images of a prompt that aren't a pair, for `reason`; `where` is their place in the source, for messages."""

    prompt: str
    reason: str = TIE
    category: str = UNCATEGORISED
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a source that isn't read: `count` rows or files, the first of them at `where`.

    `failed` is True if it should have been read and counts against the failure budget.
    """

    reason: str
    where: str = ""
    count: int = 1
    failed: bool = True


@dataclass(slots=True)
class LeftOutTally:
    """Counts by reason: `counts` of everything left out, `failed` of the part that counts against the budget."""

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
        """Yield a line for each reason, such as "no text under 'caption' 1 (row 2)"; `failed=False` omits failures."""
        for reason, count in (self.counts if failed else self.counts - self.failed).most_common():
            yield f"{reason} {count}{format_places(self.places.get(reason, []), count)}"


def format_places(shown: list[str], count: int) -> str:
    """Return the places `shown`, of `count` in total, in brackets; empty if there are none.

    >>> format_places(["row 2", "row 3", "row 5"], 7)
    ' (row 2, row 3, row 5, ...)'
    """
    return f" ({', '.join(shown)}{', ...' if _PLACES_SHOWN == len(shown) < count else ''})" if shown else ""


PairItem = Preference | NoPreference | LeftOut
"""An item of a pair set."""


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """A pair of a run for export: images as encoded files, and the names of the models that drew them.

    `margin` is above 0 unless the pair is a tie. `of_prompt` is the run's number of pairs for this prompt.
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
    """the judge or aspect that chose the pair alone; empty if all chose it together"""

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
    """A run for export. `pairs` can be iterated only once, since images are read on demand.

    `created` is the creation time of the pairs (ISO 8601); `made_with` names the models, for people. `selected_by` are
    the scorers that chose the pairs, for programs; None if they are unknown.
    """

    name: str
    created: str
    made_with: Mapping[str, str]
    captions: Iterable[Caption]
    questions: Iterable[Question]
    pairs: Iterable[WrittenPair]
    selected_by: Sequence[Selector] | None = None
    annotations: Iterable[Annotation] | None = None
    """annotators' replies; None if there are no annotators"""
    agreement: Mapping[str, str] = field(default_factory=dict)
    """each annotator's aspect -> the agreement of its replies with each other, for people"""


@runtime_checkable
class Format(Protocol):
    """A format: `title` names it in a sentence."""

    title: str

    def recognises(self, path: Path) -> bool:
        """Return True if the file or folder at `path` looks like this format, reading only its beginning."""
        ...


@runtime_checkable
class PromptFile(Format, Protocol):
    """A format of prompts."""

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts in the order of the file, including repeated ones, and everything that isn't read.

        Args:
            split: a split of a folder with several; empty for the train split (see `paths.take_split`).

        Raises:
            FormatError: the file doesn't have this format (with the place), or lacks the split.
        """
        ...


@runtime_checkable
class PairSet(Format, Protocol):
    """A format of pairs."""

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield every pair of images, including ties, and everything that isn't read; images aren't checked.

        Args:
            split: a split of a folder with several; empty for the train split (see `paths.take_split`).

        Raises:
            FormatError: the file doesn't have this format (with the place), or lacks the split.
        """
        ...


@runtime_checkable
class PairWriter(Format, Protocol):
    """A format for the pairs of a run."""

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Write the pairs to the empty `folder`, with only a few images in memory at a time.

        Returns:
            The number of `pairs` in the folder, and the number of dropped `ties`.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A yes/no question on an image with its true answer; `opposite` is the opposite question, or empty."""

    text: str
    answer: AnswerWord
    element_type: str = "other"
    opposite: str = ""


@dataclass(frozen=True, slots=True)
class AnsweredImage:
    """An image with questions and their true answers; `where` is its place in the source, for messages."""

    image: ImageSource
    questions: tuple[AnsweredQuestion, ...]
    where: str = field(default="", compare=False)


@runtime_checkable
class AnswerSet(Format, Protocol):
    """A format of questions on images with their true answers."""

    def answers(self, path: Path, split: str = "") -> Iterator[AnsweredImage | LeftOut]:
        """Yield the images with their questions, and everything that isn't read; images aren't checked.

        Raises:
            FormatError: the file doesn't have this format (with the place), or lacks the split.
        """
        ...
