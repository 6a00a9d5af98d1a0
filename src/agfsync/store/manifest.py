"""The manifest of a run folder: the SQLite database that lists its parts, and its transactions.

SQLite only detects malformed pages. So the database is sealed while no process writes to it: the next opening detects
a flipped bit.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from agfsync.errors import RunError, StoreError
from agfsync.files.atomic import flush_to_disk, store_errors
from agfsync.store.parts import FileChecksum, Hollow, PartEntry, UnitPlace
from agfsync.store.seal import Seal
from agfsync.store.streams import iterate_batches

RUN_FORMAT = 3
_TABLES = """
CREATE TABLE parts (
    id INTEGER PRIMARY KEY, stage TEXT NOT NULL, path TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, hollow TEXT NOT NULL, seconds REAL NOT NULL, written TEXT NOT NULL);
CREATE TABLE units (
    stage TEXT NOT NULL, key TEXT NOT NULL, part INTEGER REFERENCES parts (id),
    first INTEGER NOT NULL, rows INTEGER NOT NULL, dropped TEXT NOT NULL, place INTEGER, PRIMARY KEY (stage, key));
CREATE TABLE skipped (
    stage TEXT NOT NULL, key TEXT NOT NULL, reason TEXT NOT NULL, location TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (stage, key));
CREATE TABLE stages (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, mark TEXT NOT NULL, seconds REAL NOT NULL, rows INTEGER NOT NULL,
    skipped INTEGER NOT NULL, notes TEXT NOT NULL, files TEXT NOT NULL, ended TEXT NOT NULL);
CREATE TABLE quarantined (stage TEXT NOT NULL, path TEXT NOT NULL, fault TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX units_by_part ON units (part);
CREATE INDEX units_by_place ON units (stage, place) WHERE place IS NOT NULL;
"""
"""`units.place` is the unit's position in its stage's table, null if it isn't selected."""
SELECTED = "WHERE stage = ? AND place IS NOT NULL"
_CACHE_KIB = 32 << 10
"""the most KiB of the database in memory"""
ROWS_AT_ONCE = 10_000
"""Rows fetched at a time from a table that may be as long as the run."""
KEYS_AT_ONCE = 500
"""Keys in one query."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that can't be done: `key` of the table `stage`, because of `reason`; `where` names the file or row.

    `count` is above 1 if the entry stands for several items with the same fault; `where` names the first of them.
    """

    stage: str
    key: str
    reason: str
    where: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished stage. `mark` is the digest of its result, which later stages depend on; `notes` are its own counts.

    `rows` is the length of its table, `skipped` the number of items that can't be done; `files` has the checksums of
    the files that it wrote in addition to its tables, by their path in the run folder.
    """

    digest: str
    mark: str
    seconds: float
    rows: int
    skipped: int
    notes: Mapping[str, Any]
    files: Mapping[str, FileChecksum]
    ended: str


class Manifest:
    """The database at `path`.

    Every method raises StoreError when the disk fails or the database is damaged.
    """

    def __init__(self, path: Path, *, writing: bool) -> None:
        self._path, self._writing = path, writing
        self._seal = Seal(path)
        self._touched = False
        sealed = self._seal.check(restore=writing)
        with store_errors(path):
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            # A rollback journal rather than WAL, which isn't safe on the network file systems of clusters.
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        if writing and not sealed:
            self._check_unsealed()

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create the database at `path`, or complete one whose creation was interrupted."""
        manifest = cls(path, writing=True)
        if manifest._read_format() == 0:
            with store_errors(path):
                manifest._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={RUN_FORMAT}; COMMIT;")
            manifest._touched = True
        return manifest._check_format()

    @classmethod
    def open(cls, path: Path, *, writing: bool = False) -> Self:
        """Open the existing database at `path`.

        Raises:
            RunError: it is missing, or has another format.
        """
        if not path.is_file():
            copy = path.with_name(f"{path.name}.copy")
            advice = f"`cp {copy} {path}` restores its copy" if copy.is_file() else "put it back"
            raise RunError(f"{path} is missing: {advice}, or choose another --out")
        return cls(path, writing=writing)._check_format()

    def _read_format(self) -> int:
        return int(self.fetch_one("PRAGMA user_version")[0])

    def _check_format(self) -> Self:
        """Return this manifest if this version can read its format, else close it and raise RunError."""
        if (found := self._read_format()) != RUN_FORMAT:
            self._db.close()
            raise RunError(
                f"{self._path.parent} is a run of format {found}, this agfsync reads format {RUN_FORMAT}: choose"
                f" another --out, or use the agfsync that made it"
            )
        return self

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Execute all statements within the context, or none.

        Raises:
            RunError: the run is open for reading only, and so isn't locked.
        """
        if not self._writing:
            raise RunError(f"{self._path.parent} is open for reading only: open it with writing=True")
        if not self._touched:
            self._seal.remove()
            self._touched = True
        with self._run_atomically("BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def _run_atomically(self, begin: str) -> Iterator[sqlite3.Connection]:
        with store_errors(self._path):
            self._db.execute(begin)
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def fetch_all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return every row that `query` finds."""
        with store_errors(self._path):
            return self._db.execute(query, values).fetchall()

    def fetch_one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """Return the one row that `query` finds."""
        return self.fetch_all(query, *values)[0]

    def find_part(self, number: int) -> PartEntry:
        """Return the entry of a part."""
        return next(self.list_parts("WHERE id = ?", number))

    def list_parts(self, where: str = "", *values: Any) -> Iterator[PartEntry]:
        """Yield the entries of the parts that the SQL clause `where` selects."""
        query = f"SELECT path, rows, bytes, sha256, hollow FROM parts {where}"
        for path, rows, size, sha256, hollow in self.fetch_all(query, *values):
            yield PartEntry(path, rows, size, sha256, Hollow.parse(hollow))

    def list_places(self, stage: str) -> Iterator[UnitPlace]:
        """Yield the places of the units of the stage's table, in order, fetched in batches."""
        query = "SELECT place, key, part, first, rows FROM units WHERE stage = ? AND place > ? ORDER BY place LIMIT ?"
        last = -1
        while rows := self.fetch_all(query, stage, last, ROWS_AT_ONCE):
            last = rows[-1][0]
            yield from (UnitPlace(*row) for _, *row in rows)

    def find_places(self, stage: str, units: Iterable[str]) -> Iterator[tuple[str, UnitPlace | None]]:
        """Yield each of `units` with its place, or None if it isn't made, in order, fetched in batches."""
        for batch in iterate_batches(units, KEYS_AT_ONCE):
            placeholders = ",".join("?" * len(batch))
            query = f"SELECT key, part, first, rows FROM units WHERE stage = ? AND key IN ({placeholders})"
            places = {row[0]: UnitPlace(*row) for row in self.fetch_all(query, stage, *batch)}
            yield from ((key, places.get(key)) for key in batch)

    def select(self, stage: str, units: Iterable[str]) -> None:
        """Make the stage's table consist of `units`, in this order, without those that aren't made or are skipped.

        The iterable may itself read the run: nothing changes before its last unit.
        """
        # A table of this connection only, in memory while it is small, else in the system's temporary folder.
        with self._run_atomically("BEGIN") as db:
            db.execute("DROP TABLE IF EXISTS temp.listed")
            db.execute("CREATE TEMP TABLE listed (unit TEXT PRIMARY KEY, place INTEGER NOT NULL)")
        for batch in iterate_batches(enumerate(units), ROWS_AT_ONCE):
            with self._run_atomically("BEGIN") as db:
                db.executemany("INSERT OR REPLACE INTO listed VALUES (?2, ?1)", batch)
        with self.transaction() as db:
            db.execute(f"UPDATE units SET place = NULL {SELECTED}", (stage,))
            db.execute(
                "UPDATE units SET place = listed.place FROM listed WHERE stage = ?1 AND key = listed.unit"
                " AND NOT EXISTS (SELECT 1 FROM skipped WHERE stage = ?1 AND skipped.key = listed.unit)",
                (stage,),
            )
            db.execute("DROP TABLE temp.listed")

    def close(self) -> None:
        """Close the database, and seal it if it was written to."""
        self._db.close()
        # A journal that couldn't be deleted will be rolled back, which changes the database: it can't be sealed yet.
        if self._touched and not self._path.with_name(self._path.name + "-journal").exists():
            self._seal.put()

    def _check_unsealed(self) -> None:
        """Check a database without a seal: the process that wrote to it was killed."""
        # Read the whole file first: on a cold disk, reading page by page takes ten times as long.
        with store_errors(self._path), self._path.open("rb") as file:
            while file.read(1 << 20):
                pass
        (fault,) = self.fetch_one("PRAGMA integrity_check(1)")
        if fault != "ok":
            self._db.close()
            raise StoreError(f"{self._path} is damaged ({fault}): put a copy of it back; {self._seal.describe_copy()}")

    def add_part(self, db: sqlite3.Connection, stage: str, part: PartEntry, seconds: float) -> int:
        """Add a part inside a transaction and return its number."""
        row = (stage, part.path, part.rows, part.size, part.sha256, str(part.hollow), seconds, current_time())
        columns = "stage, path, rows, bytes, sha256, hollow, seconds, written"
        number = db.execute(f"INSERT INTO parts ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid
        assert number is not None
        return number

    def skip(self, item: Skipped) -> None:
        """Record an item that can't be done, replacing an earlier entry of the same key."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?, ?, ?)", astuple(item))

    def list_skipped(self, tables: str, *values: str) -> list[Skipped]:
        """Return the skipped items of the tables that the SQL condition `tables` selects, in the order of recording."""
        return [
            Skipped(*row) for row in self.fetch_all(f"SELECT * FROM skipped WHERE {tables} ORDER BY rowid", *values)
        ]

    def finish(self, stage: str, end: Finished) -> None:
        """Record the end of `stage`, replacing an earlier one."""
        files = {path: astuple(checksum) for path, checksum in end.files.items()}
        notes = (json.dumps(end.notes), json.dumps(files))
        row = (stage, end.digest, end.mark, end.seconds, end.rows, end.skipped, *notes, end.ended)
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def find_finished(self, stage: str) -> Finished | None:
        """Return how `stage` ended, or None if it hasn't."""
        found = self.fetch_all("SELECT * FROM stages WHERE name = ?", stage)
        if not found:
            return None
        _, digest, mark, seconds, rows, skipped, notes, files, ended = found[0]
        checksums = {path: FileChecksum(*values) for path, values in json.loads(files).items()}
        return Finished(digest, mark, seconds, rows, skipped, json.loads(notes), checksums, ended)

    def copy_to(self, path: Path) -> None:
        """Copy the database to `path` in a consistent state, between two transactions."""
        with store_errors(path):
            copy = sqlite3.connect(path)
            try:
                self._db.backup(copy)
            finally:
                copy.close()
            flush_to_disk(path)
        Seal(path).put()


def current_time() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
