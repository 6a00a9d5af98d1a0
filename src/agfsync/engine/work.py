"""The nouns of a stage's work."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from agfsync.engine.fitting import Fit
from agfsync.records import Record
from agfsync.store import Run

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Unit(Generic[P]):
    """A piece of work. The key names all that shapes its rows, so that work that is done is found again."""

    key: str
    payload: P


@dataclass(frozen=True, slots=True)
class Skip:
    """A unit that can't be done, because of `reason`; `where` names the file or row that is to blame."""

    reason: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Sifted:
    """What a unit made, and what it left out, counted by reason."""

    records: Sequence[Record]
    dropped: Mapping[str, int]


Outcome = Sequence[Record] | Sifted | Skip
Work = Callable[[Sequence[P]], Iterable[Outcome]]
"""One outcome for each payload, in order."""


SERVER = "server"
"""The device of a job whose model is behind a server, which is asked from this process alone, whatever the engine."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What a job finds where it is done: the run, to read from, how much fits into memory, and whom to tell."""

    run: Run
    fit: Fit
    say: Callable[[str], None]


class Job(Protocol[P_contra]):
    """Work that a model does, described by plain values, so that it can be sent to another process."""

    @property
    def source(self) -> str:
        """What names the model, or the models, with all that shapes what they make."""
        ...

    @property
    def batch(self) -> int:
        """How many pictures go through the model at a time, where there is memory enough."""
        ...

    @property
    def device(self) -> str:
        """The recipe's word for where the model runs; `SERVER` where that is no machine of ours."""
        ...

    def reads(self, payloads: Sequence[P_contra]) -> tuple[str, Sequence[str]]:
        """The table of the run, and the units of it, that the work on `payloads` reads; none of none."""
        ...

    def open(self, desk: Desk) -> Callable[[Sequence[P_contra]], Iterable[Outcome]]:
        """The work; loading its model is what costs."""
        ...
