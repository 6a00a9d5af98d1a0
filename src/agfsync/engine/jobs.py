"""Units of a stage's work, their outcomes, and jobs that need a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from agfsync.engine.batch_fitting import BatchFit
from agfsync.records import Record
from agfsync.store import Run

_P = TypeVar("_P")
_P_contra = TypeVar("_P_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Unit(Generic[_P]):
    """A piece of work. The key identifies everything that affects its rows, so that finished work is recognised."""

    key: str
    payload: _P


@dataclass(frozen=True, slots=True)
class Skip:
    """A unit that can't be done, with its reason; `where` names the faulty file or row."""

    reason: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Sifted:
    """The records of a unit, and the number of records that it dropped, by reason."""

    records: Sequence[Record]
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Undone:
    """A unit that stays to be done because of `cause`, which is raised once the outcomes after it are committed."""

    cause: Exception


Outcome = Sequence[Record] | Sifted | Skip
BatchFunction = Callable[[Sequence[_P]], Iterable[Outcome]]
"""A function from a batch of payloads to one outcome for each, in order."""

SERVER = "server"
"""The device of a job whose model is behind a server: with any engine, only this process sends requests."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """The context of a running job: the run to read from, the batch that fits into memory, a function for messages."""

    run: Run
    fit: BatchFit
    say: Callable[[str], None]


class Job(Protocol[_P_contra]):
    """Work that needs a model, described by plain values, so that it can be sent to another process."""

    @property
    def source(self) -> str:
        """The digest of the model, or models, and of everything that affects the result."""
        ...

    @property
    def batch(self) -> int:
        """The number of images in a forward pass of the model, given enough memory."""
        ...

    @property
    def device(self) -> str:
        """The recipe's name of the device; `SERVER` if the model is behind a server."""
        ...

    def reads(self, payloads: Sequence[_P_contra]) -> tuple[str, Sequence[str]]:
        """Return the table of the run, and its units, that the work on `payloads` reads."""
        ...

    def open(self, context: JobContext) -> Callable[[Sequence[_P_contra]], Iterable[Outcome]]:
        """Load the model and return the function that does the work."""
        ...
