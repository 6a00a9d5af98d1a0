from collections.abc import Iterator

import pytest

from agfsync.engine import processing
from agfsync.engine.jobs import Unit
from agfsync.engine.processing import PendingUnits
from agfsync.records import Caption
from agfsync.store import Run
from agfsync.store.streams import Stream

ROWS = [Caption("k", "t", "a", "train")]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "LOOKED_UP", 10)


def units(seen: list[int] | None = None) -> Stream[Unit[int]]:
    def begin() -> Iterator[Unit[int]]:
        for number in range(100):
            if seen is not None:
                seen.append(number)
            yield Unit(f"u{number}", number)

    return Stream(100, begin)


def test_only_what_is_not_done_is_taken_in_order(run: Run) -> None:
    done = {f"u{number}": ROWS for number in range(100) if number < 37 or number % 3 == 0}
    run.commit("captions", done, Caption.schema)
    left = PendingUnits(run, "captions", units())
    taken: list[int] = []
    while some := left.take(4):
        assert len(some) == 4 or not left.count_ahead(1)
        taken += [unit.payload for unit in some]
    assert taken == [number for number in range(37, 100) if number % 3]
    assert left.pop_found_count() == len(done)
    assert left.pop_found_count() == left.bound == 0


def test_no_more_is_read_than_is_asked_for(run: Run) -> None:
    seen: list[int] = []
    left = PendingUnits(run, "captions", units(seen))
    assert left.count_ahead(3) == 3 and len(seen) == 10
    assert len(left.take(12)) == 12 and len(seen) == 20
    assert left.bound == 88


def test_what_is_found_is_told_once(run: Run) -> None:
    run.commit("captions", {f"u{number}": ROWS for number in range(15)}, Caption.schema)
    left = PendingUnits(run, "captions", units())
    assert left.count_ahead(1) == 1
    assert (left.pop_found_count(), left.pop_found_count()) == (15, 0)


def test_portions_are_counted_up_to_what_is_asked(run: Run) -> None:
    run.commit("captions", {f"u{number}": ROWS for number in range(93)}, Caption.schema)
    left = PendingUnits(run, "captions", units())
    assert [left.count_batches(3, most) for most in (0, 1, 2, 3, 8)] == [0, 1, 2, 3, 3]
