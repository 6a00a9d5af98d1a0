import errno
import os
import sqlite3
from pathlib import Path

import pytest

from agfsync.errors import RunError, StoreError
from agfsync.files import atomic as disk


def test_what_is_written_is_whole(tmp_path: Path) -> None:
    disk.write_atomic(tmp_path / "file", b"old")
    disk.write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "isn't allowed")])
def test_a_disk_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    disk.write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=f"file: .*{says}"):
        disk.write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_libraries_that_wrap_the_disks_error_are_understood(tmp_path: Path) -> None:
    wrapped = RuntimeError("I/O error: No space left on device (os error 28)")
    assert "the disk is full" in str(disk.explain_disk_error(wrapped, tmp_path))
    assert disk.explain_disk_error(RuntimeError("something else"), tmp_path) is None


def test_any_other_error_of_the_disk_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a/file: .*No such file"):
        disk.write_atomic(tmp_path / "a" / "file", b"")


def test_a_database_that_the_disk_fails_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"run\.db: the disk fails, or is full"),
        disk.store_errors(tmp_path / "run.db"),
    ):
        raise sqlite3.OperationalError("disk I/O error")


def test_an_io_error_is_told_however_a_library_words_it(tmp_path: Path) -> None:
    for failure in (OSError(errno.EIO, os.strerror(errno.EIO)), RuntimeError("Input/output error (os error 5)")):
        assert "the disk fails, or is full" in str(disk.explain_disk_error(failure, tmp_path))


def test_a_lock_is_the_systems_and_not_the_number_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{os.getppid()} on another")
    with disk.lock_folder(tmp_path), pytest.raises(RunError, match="in use by this process itself"):
        disk.lock_folder(tmp_path)
    disk.lock_folder(tmp_path).close()
