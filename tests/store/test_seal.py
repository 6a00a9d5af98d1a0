from pathlib import Path

import pytest

from agfsync.errors import DamagedError, StoreError
from agfsync.store.seal import COPY, SUM, Seal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file at rest."""
    path = tmp_path / "run.db"
    path.write_bytes(b"what was written")
    Seal(path).put()
    return path


def beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def test_what_is_whole_is_whole(file: Path) -> None:
    assert Seal(file).check(restore=True)
    assert sorted(path.name for path in file.parent.iterdir()) == ["run.db", "run.db.copy", "run.db.sum"]


def test_what_is_damaged_is_told_and_its_copy_takes_its_place(file: Path) -> None:
    file.write_bytes(b"what was writtem")
    with pytest.raises(DamagedError, match="the next `agfsync run` restores its copy"):
        Seal(file).check(restore=False)
    with pytest.raises(StoreError, match="its copy was restored; type the same command again"):
        Seal(file).check(restore=True)
    assert file.read_bytes() == b"what was written" and Seal(file).check(restore=True)
    assert beside(file, ".corrupt").read_bytes() == b"what was writtem"


def test_a_damaged_sum_or_copy_harms_nothing(file: Path) -> None:
    beside(file, SUM).write_bytes(b"\xff")
    assert not Seal(file).check(restore=True)
    Seal(file).put()
    beside(file, COPY).write_bytes(b"else")
    assert Seal(file).check(restore=True)


def test_without_a_sound_copy_it_says_what_to_do(file: Path) -> None:
    file.write_bytes(b"other")
    beside(file, COPY).write_bytes(b"else")
    with pytest.raises(StoreError, match="put a copy of it back, or choose another --out"):
        Seal(file).check(restore=True)


def test_while_somebody_writes_nothing_is_known(file: Path) -> None:
    Seal(file).remove()
    file.write_bytes(b"other")
    assert not Seal(file).check(restore=True)
    assert "is one of 20" in Seal(file).describe_copy()
    beside(file, COPY).unlink()
    assert Seal(file).describe_copy() == "there is none next to it"


def test_who_looks_while_somebody_begins_to_write_takes_it_for_no_damage(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written_to(path: Path) -> str:
        Seal(file).remove()
        return "other"

    monkeypatch.setattr("agfsync.store.seal.compute_sha256", written_to)
    assert Seal(file).check(restore=False)
