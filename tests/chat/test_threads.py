import threading
import time

import pytest

from agfsync.chat.threads import map_in_threads


def test_results_keep_the_order_of_the_items() -> None:
    def work(item: int) -> int:
        time.sleep(0.01 * (5 - item))
        return item * item

    assert list(map_in_threads(work, range(5), 3)) == list(map_in_threads(work, range(5), 1)) == [0, 1, 4, 9, 16]


def test_no_more_are_at_work_than_allowed() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def work(_: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    list(map_in_threads(work, range(12), 3))
    assert most == [3]


def test_an_error_comes_at_its_turn_begins_nothing_more_and_waits_for_what_was_begun() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError(item)
        time.sleep(0.05)
        ended.append(item)
        return item

    found: list[int] = []
    with pytest.raises(ValueError, match="1"):
        for each in map_in_threads(work, range(50), 3):
            found.append(each)
    assert found == [0]
    assert len(begun) < 10 and sorted(ended) == sorted(set(begun) - {1})
