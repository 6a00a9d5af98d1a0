from pathlib import Path

import pytest

from agfsync.errors import RunError, StoreError
from agfsync.store.manifest import Manifest


def entries(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_it_rests_with_a_sum_once_somebody_has_written(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Manifest.create(path).close()
    assert entries(path) == {"run.db", "run.db.sum", "run.db.copy"}
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in entries(path)}
    Manifest.open(path, writing=True).close()
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in entries(path)} == before


def test_where_it_is_gone_its_copy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Manifest.create(path).close()
    path.unlink()
    with pytest.raises(RunError, match=r"is missing: `cp .*run.db.copy .*run.db` restores its copy"):
        Manifest.open(path)
    path.with_name("run.db.copy").unlink()
    with pytest.raises(RunError, match="is missing: put it back"):
        Manifest.open(path)


def test_while_a_journal_is_to_be_rolled_back_it_has_no_sum(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    manifest = Manifest.create(path)
    path.with_name("run.db-journal").write_bytes(b"of a commit that the disk didn't let end")
    manifest.close()
    assert "run.db.sum" not in entries(path)


def test_a_database_without_a_sum_is_gone_through(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    manifest = Manifest.create(path)
    with manifest.transaction() as db:
        db.executemany("INSERT INTO skipped VALUES ('s', ?, 'why', '', 1)", ((f"unit {n}",) for n in range(3000)))
    manifest.close()
    path.with_name("run.db.sum").unlink()
    data = bytearray(path.read_bytes())
    place = data.rindex(b"unit 77")
    data[place : place + 7] = b"unit zz"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged \(.*\): put a copy of it back; run\.db\.copy is one of 20"):
        Manifest.open(path, writing=True)
