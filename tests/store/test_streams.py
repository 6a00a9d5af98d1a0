from collections.abc import Iterator

import pytest

from agfsync.store.streams import Stream, group_by_column, iterate_batches, join_in_order


def test_a_stream_begins_anew_each_time() -> None:
    begun = 0

    def begin() -> Iterator[int]:
        nonlocal begun
        begun += 1
        return iter(range(3))

    stream = Stream(3, begin)
    assert (len(stream), list(stream), list(stream), begun) == (3, [0, 1, 2], [0, 1, 2], 2)


def test_some_at_a_time() -> None:
    assert list(iterate_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(iterate_batches([], 2)) == []


def test_rows_of_one_value_that_follow_each_other() -> None:
    rows = [{"a": 1, "n": 0}, {"a": 1, "n": 1}, {"a": 2, "n": 2}, {"a": 1, "n": 3}]
    assert [(value, [row["n"] for row in same]) for value, same in group_by_column("a", rows)] == [
        (1, [0, 1]),
        (2, [2]),
        (1, [3]),
    ]


def test_each_is_matched_with_its_own_or_nothing() -> None:
    others = [("b", 1), ("d", 2)]
    assert list(join_in_order("abcde", str, others)) == [("a", None), ("b", 1), ("c", None), ("d", 2), ("e", None)]


@pytest.mark.parametrize("others", [[("c", 1), ("b", 2)], [("a", 1), ("x", 2)]])
def test_what_is_out_of_order_is_an_error_and_not_left_out(others: list[tuple[str, int]]) -> None:
    with pytest.raises(ValueError, match="is out of order"):
        list(join_in_order("abc", str, others))


def test_matching_holds_one_of_each() -> None:
    taken: list[str] = []

    def told(name: str) -> Iterator[tuple[str, str]]:
        for letter in "abc":
            taken.append(name + letter)
            yield letter, name

    pairs = join_in_order(told("left"), lambda each: each[0], told("right"))
    next(pairs)
    assert taken == ["righta", "lefta"]
