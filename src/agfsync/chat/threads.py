"""Runs several requests concurrently."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def map_in_threads(call: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[_R]:
    """Yield the result of `call` for each of `items`, in order; an exception is raised when its item is due.

    After an exception no further call starts. The running ones are waited for, since they are already paid.
    ThreadPoolExecutor isn't suitable: its threads aren't daemons, so that Ctrl-C would hang until the slowest server
    replies.

    >>> list(map_in_threads(str.upper, ["a", "b"], workers=2))
    ['A', 'B']
    """
    if workers == 1:
        yield from map(call, items)
        return
    jobs = deque((item, Future[_R]()) for item in items)
    futures = [future for _, future in jobs]
    for _ in range(min(workers, len(futures))):
        Thread(target=_run_jobs, args=(call, jobs), daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    except Exception:
        for future in futures:
            future.cancel()
        wait(futures)
        raise
    finally:
        jobs.clear()


def _run_jobs(call: Callable[[_T], _R], jobs: "deque[tuple[_T, Future[_R]]]") -> None:
    while True:
        try:
            item, future = jobs.popleft()
        except IndexError:
            return
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call(item))
            except BaseException as failure:
                future.set_exception(failure)
