from collections.abc import Sequence
from pathlib import Path

import pytest

from agfsync.engine.batch_fitting import MEMORY, BatchFit, load_batch_fit
from agfsync.engine.progress import SilentProgress

NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Model:
    """Has room for so many things at a time."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, list[int]()

    def __call__(self, things: Sequence[int]) -> list[int]:
        self.tried.append(len(things))
        if len(things) > self.room:
            raise RuntimeError(NO_ROOM)
        return [-thing for thing in things]


class Told(SilentProgress):
    def __init__(self) -> None:
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_batch_is_halved_until_it_fits_and_stays_so() -> None:
    model, sizes = Model(3), list[int]()
    fit = BatchFit(8, sizes.append)
    assert fit.over(range(10), model) == [-thing for thing in range(10)]
    assert model.tried == [8, 4, 2, 2, 2, 2, 2]
    assert fit.over(range(3), model) == [0, -1, -2]
    assert model.tried[7:] == [2, 1]
    assert sizes == [2] and fit.size == 2


def test_what_fits_is_never_split() -> None:
    model = Model(8)
    assert BatchFit(8).over(range(10), model) == [-thing for thing in range(10)]
    assert model.tried == [8, 2]


def test_a_single_thing_that_does_not_fit_is_told_and_nothing_is_remembered() -> None:
    model, sizes = Model(0), list[int]()
    with pytest.raises(RuntimeError, match="out of memory"):
        BatchFit(4, sizes.append).over(range(4), model)
    assert model.tried == [4, 2, 1] and sizes == []


def test_other_faults_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(_: Sequence[int]) -> list[int]:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        BatchFit(4).over(range(4), broken)


def test_the_batch_that_failed_is_let_go_of_before_a_smaller_one_is_tried() -> None:
    alive = 0

    class Batch:
        def __init__(self, things: Sequence[int]) -> None:
            nonlocal alive
            assert alive == 0
            alive += 1
            self.things = things

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def work(things: Sequence[int]) -> list[int]:
        batch = Batch(things)
        if len(batch.things) > 2:
            raise RuntimeError(NO_ROOM)
        return list(batch.things)

    assert BatchFit(8).over(range(8), work) == list(range(8))


def test_the_size_is_known_to_the_next_command_and_told_once(tmp_path: Path) -> None:
    told, model = Told(), Model(3)
    load_batch_fit(tmp_path, "scores: clip", "source", 16, told).over(range(16), model)
    assert told.said == [
        "scores: clip: out of memory: 2 images at a time instead of 16; memory.json remembers it",
    ]
    assert load_batch_fit(tmp_path, "scores: clip", "source", 16, told).size == 2
    for other in (("scores: vqa", "source", 16), ("scores: clip", "bf16", 16), ("scores: clip", "source", 8)):
        assert load_batch_fit(tmp_path, *other, told).size == other[2]


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', "\x00"])
def test_a_file_that_is_not_what_was_written_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MEMORY).write_text(text)
    fit = load_batch_fit(tmp_path, "scores", "source", 4, SilentProgress())
    assert fit.size == 4
    fit.over(range(4), Model(1))
    assert load_batch_fit(tmp_path, "scores", "source", 4, SilentProgress()).size == 1
