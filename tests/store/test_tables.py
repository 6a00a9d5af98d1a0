import pyarrow as pa
import pytest

from agfsync.store import tables
from agfsync.store.tables import CacheKey, PartCache


class Disk:
    """Says what was loaded."""

    def __init__(self) -> None:
        self.cache, self.loads = PartCache(), list[int]()

    def read(self, *numbers: int, to_the_end: bool = False) -> list[int]:
        """What it takes to read these parts, one after the other."""
        self.loads.clear()
        for number in numbers:
            key: CacheKey = (number, None)
            self.cache.get(key, lambda number=number: self.loads.append(number) or pa.table({"n": [number] * 100}))  # type: ignore[misc]
            if to_the_end:
                self.cache.mark_finished(key)
        return list(self.loads)


def test_parts_that_take_turns_are_loaded_once() -> None:
    assert Disk().read(*[1, 2, 3] * 10) == [1, 2, 3]


def test_what_was_read_to_its_end_is_let_go_of_once_another_is_loaded() -> None:
    disk = Disk()
    disk.read(1, to_the_end=True)
    assert disk.read(1, to_the_end=True) == []
    assert disk.read(2, 1) == [2, 1]


def test_what_was_asked_for_again_since_is_kept() -> None:
    disk = Disk()
    disk.read(1, to_the_end=True)
    disk.read(1)
    assert disk.read(2, 1) == [2]


def test_columns_of_a_part_are_a_table_of_their_own() -> None:
    disk = PartCache()
    whole, some = pa.table({"a": [1], "b": [2]}), pa.table({"a": [1]})
    assert disk.get((1, None), lambda: whole) is whole
    assert disk.get((1, ("a",)), lambda: some) is some


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 1 << 30), (100, 2 * 800)])
def test_the_ones_that_were_asked_for_longest_ago_go_first(
    monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    monkeypatch.setattr(tables, "CACHED_PARTS", most)
    monkeypatch.setattr(tables, "CACHED_BYTES", most_bytes)
    disk = Disk()
    assert disk.read(1, 2, 1, 3) == [1, 2, 3]
    assert disk.read(1, 3, 2) == [2]


def test_one_is_kept_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CACHED_BYTES", 1)
    assert Disk().read(1, 1, 2, 2, 1) == [1, 2, 1]


def test_what_is_cleared_is_loaded_anew() -> None:
    disk = Disk()
    disk.read(1)
    disk.cache.clear()
    assert disk.read(1) == [1]
