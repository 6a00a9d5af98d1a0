"""Several requests at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """`work` of each of `items`, in their order, `at_once` of them at a time; an error is raised when it is its turn.

    After an error nothing new is begun and what was begun is waited for, since it is being paid. Its threads are
    daemons and Ctrl-C waits for none, or it would hang as long as the slowest server.
    """
    if at_once == 1:
        yield from map(work, items)
        return
    waiting = deque((item, Future[R]()) for item in items)
    futures = [future for _, future in waiting]
    for _ in range(min(at_once, len(futures))):
        Thread(target=_labour, args=(work, waiting), daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    except Exception:
        wait(set(futures) - _emptied(waiting))
        raise
    finally:
        waiting.clear()


def _emptied(waiting: "deque[tuple[T, Future[R]]]") -> set[Future[R]]:
    """Those that are never begun: the threads find nothing more."""
    never: set[Future[R]] = set()
    while True:
        try:
            never.add(waiting.popleft()[1])
        except IndexError:
            return never


def _labour(work: Callable[[T], R], waiting: "deque[tuple[T, Future[R]]]") -> None:
    while True:
        try:
            item, future = waiting.popleft()
        except IndexError:
            return
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work(item))
        except BaseException as failure:
            future.set_exception(failure)
