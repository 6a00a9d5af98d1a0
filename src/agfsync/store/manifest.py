"""The manifest of a run folder: the SQLite database that says what is there, and its transactions.

SQLite notices a page that makes no sense, and no other. So while nobody writes, a sum of the database lies beside it,
and a copy of it: a flipped bit is found when it is opened next.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from agfsync.errors import RunError, StoreError
from agfsync.files.atomic import guarded
from agfsync.store.atrest import AtRest
from agfsync.store.parts import Hollow, Place, Receipt
from agfsync.store.streams import some_of

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
LATER = """
CREATE TABLE IF NOT EXISTS aside (stage TEXT NOT NULL, path TEXT NOT NULL, fault TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS units_by_place ON units (stage, place) WHERE place IS NOT NULL;
"""
"""What runs of earlier versions don't have, beside `parts.hollow`: the parts that were set aside; places in order."""
SELECTED = "WHERE stage = ? AND place IS NOT NULL"
CACHE = 32 << 10
"""KiB of the database in memory, at most."""
AT_ONCE = 10_000
"""Rows fetched at a time, of a table that may be as long as the run."""
ASKED_AT_ONCE = 500
"""Keys in one query."""


class Manifest:
    """The database at `path`, made when it isn't there.

    Raises (from every method): StoreError when the disk fails, or the database isn't what was written.
    """

    def __init__(self, path: Path, *, writing: bool = True) -> None:
        self._path = path
        self._rest = AtRest(path)
        self._touched = False
        rested = self._rest.check(mend=writing)
        with guarded(path):
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            # A rollback journal rather than WAL: it is as safe on the network file systems that clusters have.
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA cache_size=-{CACHE}")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, FORMAT):
                raise RunError(
                    f"{path} is of format {found}, this agfsync reads {FORMAT}: use the agfsync that made it"
                )
            if found == 0:
                self._db.executescript(f"BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
        if writing:
            if not rested:
                self._check()
            self._bring_up()

    @classmethod
    def existing(cls, path: Path, *, writing: bool = True) -> Self:
        """The database at `path`, which must be there.

        Raises:
            RunError: it isn't.
        """
        if not path.is_file():
            raise RunError(f"{path} is missing: put it back, or choose another --out")
        return cls(path, writing=writing)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is executed inside happens, or none of it."""
        if not self._touched:
            self._rest.end()
            self._touched = True
        with self._atomic("BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def _atomic(self, begin: str) -> Iterator[sqlite3.Connection]:
        with guarded(self._path):
            self._db.execute(begin)
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

    def part(self, number: int) -> Receipt:
        """What was entered of a part."""
        return next(self.parts("WHERE id = ?", number))

    def parts(self, where: str = "", *values: Any) -> Iterator[Receipt]:
        """What was entered of the parts that `where` finds."""
        hollow = "hollow" if self._has_hollow() else "NULL"
        for path, rows, size, sha256, text in self.all(
            f"SELECT path, rows, bytes, sha256, {hollow} FROM parts {where}", *values
        ):
            yield Receipt(path, rows, size, sha256, None if text is None else Hollow.parse(text))

    def places(self, stage: str) -> Iterator[Place]:
        """Where the units of the stage's table lie, in order; a few at a time, however many there are."""
        query = "SELECT place, key, part, first, rows FROM units WHERE stage = ? AND place > ? ORDER BY place LIMIT ?"
        last = -1
        while found := self.all(query, stage, last, AT_ONCE):
            last = found[-1][0]
            yield from (Place(*row) for _, *row in found)

    def places_of(self, stage: str, units: Iterable[str]) -> Iterator[tuple[str, Place | None]]:
        """Where each of `units` lies, or None where it isn't made, in order; a few at a time."""
        for some in some_of(units, ASKED_AT_ONCE):
            marks = ",".join("?" * len(some))
            query = f"SELECT key, part, first, rows FROM units WHERE stage = ? AND key IN ({marks})"
            there = {row[0]: Place(*row) for row in self.all(query, stage, *some)}
            yield from ((key, there.get(key)) for key in some)

    def put_in_order(self, stage: str, units: Iterable[str]) -> None:
        """Let the stage's table consist of `units`, in this order, without those that aren't made or have failed.

        They may be read out of the run while they are given: until the last is there, nothing is changed.
        """
        # A table of this connection alone, in memory while it is small, else in the system's folder for such things.
        with self._atomic("BEGIN") as db:
            db.execute("DROP TABLE IF EXISTS temp.listed")
            db.execute("CREATE TEMP TABLE listed (unit TEXT PRIMARY KEY, place INTEGER NOT NULL)")
        for some in some_of(enumerate(units), AT_ONCE):
            with self._atomic("BEGIN") as db:
                db.executemany("INSERT OR REPLACE INTO listed VALUES (?2, ?1)", some)
        with self.transaction() as db:
            db.execute(f"UPDATE units SET place = NULL {SELECTED}", (stage,))
            db.execute(
                "UPDATE units SET place = listed.place FROM listed WHERE stage = ?1 AND key = listed.unit"
                " AND NOT EXISTS (SELECT 1 FROM failures WHERE stage = ?1 AND failures.unit = listed.unit)",
                (stage,),
            )
            db.execute("DROP TABLE temp.listed")

    def close(self) -> None:
        self._db.close()
        # A journal that the disk didn't let go is to be rolled back: the database isn't yet what it will be.
        if self._touched and not self._path.with_name(self._path.name + "-journal").exists():
            self._rest.begin()

    def _check(self) -> None:
        """Of a database without a sum, since whoever wrote to it was killed."""
        # Read through once: page by page, here and there, a cold disk takes ten times as long over it.
        with guarded(self._path), self._path.open("rb") as file:
            while file.read(1 << 20):
                pass
        (told,) = self.one("PRAGMA integrity_check(1)")
        if told != "ok":
            self._db.close()
            raise StoreError(f"{self._path} is damaged ({told}): put a copy of it back; {self._rest.told()}")

    def _bring_up(self) -> None:
        """Adds what an earlier version's database lacks."""
        lacks = "aside" not in {name for (name,) in self.all("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if lacks or not self._has_hollow():
            with self.transaction() as db:
                for statement in LATER.split(";"):
                    db.execute(statement)
                if not self._has_hollow():
                    db.execute("ALTER TABLE parts ADD COLUMN hollow TEXT")

    def _has_hollow(self) -> bool:
        return "hollow" in {column[1] for column in self.all("PRAGMA table_info(parts)")}


def enter_part(db: sqlite3.Connection, stage: str, part: Receipt, seconds: float) -> int:
    """Enter a part inside a transaction; its number."""
    row = (stage, part.path, part.rows, part.size, part.sha256, seconds, now(), str(part.hollow))
    query = (
        "INSERT INTO parts (stage, path, rows, bytes, sha256, seconds, written, hollow) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    number = db.execute(query, row).lastrowid
    assert number is not None
    return number


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
