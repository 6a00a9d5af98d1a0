"""Sequences larger than memory: iterated repeatedly, in batches, or joined with another in the same order."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Generic, Protocol, TypeVar

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_V = TypeVar("_V")


class Reiterable(Protocol[_T_co]):
    """Things that can be iterated any number of times, such as a list or a `Stream`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[_T_co]: ...


@dataclass(frozen=True, slots=True)
class Stream(Generic[_T]):
    """A sequence of `count` items that `begin` reads or computes on each iteration, never all in memory.

    >>> numbers = Stream(3, lambda: iter(range(3)))
    >>> len(numbers), list(numbers), list(numbers)
    (3, [0, 1, 2], [0, 1, 2])
    """

    count: int
    begin: Callable[[], Iterator[_T]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[_T]:
        return self.begin()


def iterate_batches(things: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield `things` in order, `size` at a time; fewer at the end.

    >>> list(iterate_batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch


def group_by_column(column: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, list[Mapping[str, Any]]]]:
    """Yield each value of `column` with the consecutive rows that have it.

    >>> list(group_by_column("a", [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 2, "b": 4}]))
    [(1, [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}]), (2, [{'a': 2, 'b': 4}])]
    """
    return ((value, list(same)) for value, same in groupby(rows, key=lambda row: row[column]))


def join_in_order(
    things: Iterable[_T], key: Callable[[_T], Hashable], others: Iterable[tuple[Hashable, _V]]
) -> Iterator[tuple[_T, _V | None]]:
    """Yield each of `things` with the value of its key in `others`, or None; one of each is in memory at a time.

    >>> list(join_in_order("abc", str, [("a", 1), ("c", 3)]))
    [('a', 1), ('b', None), ('c', 3)]

    Raises:
        ValueError: `others` aren't in the order of `things`, or have a key that no thing has.
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
