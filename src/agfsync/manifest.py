"""The manifest of a run folder: the SQLite database that says what is there, and its transactions."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from agfsync.disk import guarded
from agfsync.errors import RunError

FORMAT = 1
TABLES = """
CREATE TABLE IF NOT EXISTS parts (
    id INTEGER PRIMARY KEY, stage TEXT NOT NULL, path TEXT NOT NULL UNIQUE,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, seconds REAL NOT NULL, written TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS units (
    stage TEXT NOT NULL, key TEXT NOT NULL, part INTEGER REFERENCES parts (id),
    first INTEGER NOT NULL, rows INTEGER NOT NULL, dropped TEXT NOT NULL, place INTEGER, PRIMARY KEY (stage, key));
CREATE TABLE IF NOT EXISTS failures (
    stage TEXT NOT NULL, unit TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (stage, unit));
CREATE TABLE IF NOT EXISTS stages (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, mark TEXT NOT NULL, seconds REAL NOT NULL, units INTEGER NOT NULL,
    failures INTEGER NOT NULL, notes TEXT NOT NULL, ended TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS units_by_part ON units (part);
"""
"""`units.place` is the unit's place in its stage's table, null where it isn't part of it."""


class Manifest:
    """The database at `path`, made when it isn't there.

    Raises (from every method): StoreError when the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with guarded(path):
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            # A rollback journal rather than WAL: it is as safe on the network file systems that clusters have.
            self._db.execute("PRAGMA synchronous=FULL")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, FORMAT):
                raise RunError(
                    f"{path} is of format {found}, this agfsync reads {FORMAT}: use the agfsync that made it"
                )
            if found == 0:
                self._db.executescript(f"BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;")

    @classmethod
    def existing(cls, path: Path) -> Self:
        """The database at `path`, which must be there.

        Raises:
            RunError: it isn't.
        """
        if not path.is_file():
            raise RunError(f"{path} is missing: put it back, or choose another --out")
        return cls(path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is executed inside happens, or none of it."""
        with guarded(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Every row that `query` finds."""
        with guarded(self._path):
            return self._db.execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The one row that `query` finds."""
        return self.all(query, *values)[0]

    def close(self) -> None:
        self._db.close()


def enter_part(db: sqlite3.Connection, stage: str, part: tuple[str, int, bytes], seconds: float) -> int:
    """Enter a part (its path in the run folder, its rows, its bytes) inside a transaction; its number."""
    path, rows, data = part
    written = datetime.now(UTC).isoformat(timespec="seconds")
    row = (stage, path, rows, len(data), hashlib.sha256(data).hexdigest(), seconds, written)
    query = "INSERT INTO parts (stage, path, rows, bytes, sha256, seconds, written) VALUES (?, ?, ?, ?, ?, ?, ?)"
    number = db.execute(query, row).lastrowid
    assert number is not None
    return number
