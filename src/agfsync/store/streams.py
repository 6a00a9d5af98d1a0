"""What is longer than memory: gone through piece by piece, again and again, beside others in the same order."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")


class Many(Protocol[T_co]):
    """Things that can be gone through any number of times; a list is some, and so is a `Stream`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """`count` things that `begin` reads, or makes, anew each time, so that they are never all in memory."""

    count: int
    begin: Callable[[], Iterator[T]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[T]:
        return self.begin()


def some_of(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """`things`, `size` at a time, in order; fewer at the end."""
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def by(column: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, list[Mapping[str, Any]]]]:
    """Rows of one value of `column` that follow each other, with that value."""
    return ((value, list(same)) for value, same in groupby(rows, key=lambda row: row[column]))


def matched(
    things: Iterable[T], key: Callable[[T], Hashable], others: Iterable[tuple[Hashable, V]]
) -> Iterator[tuple[T, V | None]]:
    """Each of `things` with what `others` have under its key, or None; one of each is in memory.

    Raises:
        ValueError: `others` aren't in the order of `things`, or have what is under no key of them.
    """
    rest = iter(others)
    waiting = next(rest, None)
    for thing in things:
        if waiting is not None and waiting[0] == key(thing):
            yield thing, waiting[1]
            waiting = next(rest, None)
        else:
            yield thing, None
    if waiting is not None:
        raise ValueError(f"'{waiting[0]}' is out of order")
