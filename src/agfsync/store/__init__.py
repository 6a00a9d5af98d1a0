"""The run folder: Parquet parts, atomic commit, manifest, quarantine.

A part is written beside, flushed, renamed, and only then entered in the manifest, in one transaction. What is in the
manifest is there; what isn't never happened, and the next part of that stage takes its place. A stage's table is the
units that were selected for it: rows of other settings stay on disk, unselected, and are found again with the settings.
A stage may have tables beside its own, called STAGE_WHAT.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

import pyarrow as pa

from agfsync.errors import RunError
from agfsync.files import atomic as disk
from agfsync.files.atomic import guarded, write_atomic
from agfsync.records import Record, digest, digest_of_lists
from agfsync.store import parts
from agfsync.store.integrity import Damage, damaged, keep, sweep
from agfsync.store.manifest import SELECTED, Finished, Manifest, Skipped, now
from agfsync.store.parts import Kept
from agfsync.store.tables import Tables

R = TypeVar("R", bound=Record)

RECIPE, DATABASE = "recipe.yaml", "run.db"
OWN = {"lock", RECIPE, f"{RECIPE}.tmp", *(DATABASE + end for end in ("", "-journal", ".sum", ".copy"))}
OF_STAGE = "(stage = ?1 OR stage GLOB ?1 || '_*')"
"""Of the stage's own table, or of one beside it."""


class Run:
    """A run folder. One process at a time writes to it; any number may look.

    Raises (from every method): StoreError when the disk fails or a part isn't what was written.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: io.TextIOWrapper | None) -> None:
        self.path = path
        self._manifest = manifest
        self._lock = lock
        self._tables = Tables(path, manifest, writing=lock is not None)

    @classmethod
    def create(cls, path: Path, recipe_yaml: str) -> Self:
        """A new run at `path`, opened for writing.

        Raises:
            RunError: `path` is in use, is a run already, or holds other things.
        """
        if (path / RECIPE).exists():
            raise RunError(f"{path} is a run already: choose another --out")
        if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - OWN):
            raise RunError(f"{path} holds other things than a run: choose another --out")
        with guarded(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls._opened(path, writing=True, new=True)
        write_atomic(path / RECIPE, recipe_yaml.encode())
        return run

    @classmethod
    def open(cls, path: Path, *, writing: bool = False) -> Self:
        """Open the run at `path` to read it, which locks nothing; with `writing`, locked against other writers.

        Raises:
            RunError: there is no run, it is of another format, or somebody else writes to it.
        """
        if not (path / RECIPE).is_file():
            raise RunError(f"no run at {path}: `agfsync run RECIPE --out {path}` makes one")
        return cls._opened(path, writing=writing, new=False)

    @classmethod
    def _opened(cls, path: Path, *, writing: bool, new: bool) -> Self:
        lock = disk.lock(path) if writing else None
        try:
            database = path / DATABASE
            manifest = Manifest.create(database) if new else Manifest.open(database, writing=writing)
            if writing:
                sweep(path, manifest)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        return cls(path, manifest, lock)

    def close(self) -> None:
        try:
            self._manifest.close()
        finally:
            if self._lock is not None:
                self._lock.close()

    def made_in_order(self, stage: str) -> None:
        """Says that each unit of the stage is made with regard to those before it, and would be the same again."""
        self._tables.in_order.add(stage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def recipe_yaml(self) -> str:
        """The recipe that this run follows."""
        with guarded(self.path / RECIPE):
            return (self.path / RECIPE).read_text(encoding="utf-8")

    def rewrite_recipe(self, recipe_yaml: str) -> None:
        """Follow another recipe from now on; nothing that was made is lost."""
        write_atomic(self.path / RECIPE, recipe_yaml.encode())

    # Writing

    def commit(
        self,
        stage: str,
        outcomes: Mapping[str, Sequence[Record]],
        schema: pa.Schema,
        *,
        dropped: Mapping[str, Mapping[str, int]] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Write what units made (key -> rows) as one part and enter it in the manifest: all of it, or nothing.

        `dropped` counts, for a unit, what it left out and why; `seconds` is the time that making the part took.
        """
        rows = [record.row() for records in outcomes.values() for record in records]
        part = parts.write(self.path, self._next_part(stage), rows, schema) if rows else None
        counts = {unit: len(records) for unit, records in outcomes.items()}
        self.enter(stage, counts, part, dropped=dropped, seconds=seconds)

    def enter(
        self,
        stage: str,
        units: Mapping[str, int],
        part: parts.Receipt | None,
        *,
        dropped: Mapping[str, Mapping[str, int]] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Enter in the manifest a part that was written: the rows of `units` (key -> how many), one after the other.

        Where none of them made a row there is no part.
        """
        with self._manifest.transaction() as db:
            number = None if part is None else self._manifest.add_part(db, stage, part, seconds)
            first = 0
            for unit, rows in units.items():
                reasons = json.dumps(dict((dropped or {}).get(unit, {})))
                db.execute(
                    "INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (stage, unit, number if rows else None, first, rows, reasons),
                )
                db.execute("DELETE FROM skipped WHERE stage = ? AND key = ?", (stage, unit))
                first += rows

    def _next_part(self, stage: str) -> str:
        """The path of the stage's next part in the run folder."""
        (last,) = self._manifest.one("SELECT max(path) FROM parts WHERE stage = ?", stage)
        number = 0 if last is None else int(Path(last).stem.split("-")[1]) + 1
        return f"{stage}/part-{number:06}.parquet"

    def part_elsewhere(self, stage: str) -> str:
        """A path in the run folder for a part of `stage` that another process writes, and that no other part ever has.

        Until it is entered it is none: what is left over is swept out when the run is opened.
        """
        return self._next_part(stage).replace(".parquet", f"-{uuid4().hex[:12]}.parquet")

    def skip(self, stage: str, key: str, reason: str, where: str = "", count: int = 1) -> None:
        """Enter that `key` of `stage` can't be done, and why; `where` names the file or row that is to blame.

        A unit that is skipped isn't part of the stage's table. It is tried again when its stage runs again.
        """
        self._manifest.skip(Skipped(stage, key, reason, where, count))

    def select(self, stage: str, units: Iterable[str]) -> None:
        """Let the stage's table consist of `units`, in this order, without those that aren't done or are skipped.

        They may be read out of the run's tables while they are given.
        """
        self._manifest.put_in_order(stage, units)

    def finish(
        self,
        stage: str,
        digest_: str,
        seconds: float,
        notes: Mapping[str, Any],
        made: Iterable[str] = (),
        *,
        by_rows: bool = False,
    ) -> None:
        """Enter that `stage` is complete under the settings that `digest_` names, `seconds` after it was begun.

        `made` are the files and folders that it made beside its tables, by their paths in the run folder. `by_rows`
        says that a unit's rows aren't the same each time it is made.
        """
        rows = self._made_anew(stage) if by_rows else []
        mark = digest_of_lists("mark", self.selected(stage), *rows) if self.count(stage) else digest("mark", digest_)
        skipped = sum(each.count for each in self.skipped(stage))
        length, files = self.length(stage), keep(self.path, made)
        self._manifest.finish(stage, Finished(digest_, mark, seconds, length, skipped, notes, files, now()))

    def _made_anew(self, stage: str) -> list[Iterator[str]]:
        """The keys of the rows of a stage that lost a part once: its units may have been made to other rows since."""
        if not self._manifest.all("SELECT 1 FROM quarantined WHERE stage = ? LIMIT 1", stage):
            return []
        return [(row["key"] for row in self.rows(stage, ["key"]))]

    def reopen(self, stage: str) -> None:
        """Enter that `stage` isn't complete; what it skipped gets another try."""
        with self._manifest.transaction() as db:
            db.execute("DELETE FROM stages WHERE name = ?", (stage,))
            db.execute(f"DELETE FROM skipped WHERE {OF_STAGE}", (stage,))

    # Looking

    def done(self, stage: str, units: Iterable[str]) -> set[str]:
        """Which of `units` the stage has made."""
        return {unit for unit, place in self._manifest.places_of(stage, units) if place is not None}

    def under_way(self, stage: str) -> int:
        """How many units of the stage are made, in all of its tables, under these settings and any other."""
        (count,) = self._manifest.one(f"SELECT count(*) FROM units WHERE {OF_STAGE}", stage)
        return int(count)

    def made(self, stage: str) -> list[str]:
        """The keys of all units that the stage has made, under these settings and any other, as they were committed."""
        return [key for (key,) in self._manifest.all("SELECT key FROM units WHERE stage = ? ORDER BY rowid", stage)]

    def selected(self, stage: str) -> Iterator[str]:
        """The keys of the units that the stage's table consists of, in order."""
        return (place.unit for place in self._manifest.places(stage))

    def count(self, stage: str) -> int:
        """How many units the stage's table consists of."""
        (units,) = self._manifest.one(f"SELECT count(*) FROM units {SELECTED}", stage)
        return int(units)

    def length(self, stage: str) -> int:
        """How many rows the stage's table has."""
        (rows,) = self._manifest.one(f"SELECT coalesce(sum(rows), 0) FROM units {SELECTED}", stage)
        return int(rows)

    def skipped(self, stage: str) -> list[Skipped]:
        """Return what could not be done of all of the stage's tables, in the order of entering."""
        return self._manifest.skipped(OF_STAGE, stage)

    def dropped(self, stage: str) -> Counter[str]:
        """What the units of the stage's table left out, counted by reason."""
        total: Counter[str] = Counter()
        query = f"SELECT dropped, count(*) FROM units {SELECTED} GROUP BY dropped ORDER BY min(place)"
        for reasons, units in self._manifest.all(query, stage):
            total.update({reason: count * units for reason, count in json.loads(reasons).items()})
        return total

    def finished(self, stage: str) -> Finished | None:
        """How the stage ended, or None when it hasn't."""
        return self._manifest.finished(stage)

    def newest_part(self) -> int:
        """The number of the part committed last, 0 when there is none."""
        (newest,) = self._manifest.one("SELECT coalesce(max(id), 0) FROM parts")
        return int(newest)

    def seconds(self, stage: str, until: int) -> float:
        """The time that making those parts of the stage's tables took that are numbered up to `until`."""
        used = f"id <= ?2 AND id IN (SELECT part FROM units WHERE {OF_STAGE} AND place IS NOT NULL)"
        (total,) = self._manifest.one(f"SELECT coalesce(sum(seconds), 0) FROM parts WHERE {used}", stage, until)
        return float(total)

    def read(self, stage: str, kind: type[R], units: Iterable[str] | None = None) -> Iterator[R]:
        """The records of the stage's table, or of `units`, in order.

        Raises:
            StoreError: a part is missing or isn't what was written; it is set aside and its units are to be made anew.
        """
        return (kind.of(row) for row in self.rows(stage, units=units))

    def rows(
        self, stage: str, columns: Sequence[str] | None = None, units: Iterable[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """`read`, as plain rows; of `columns` only, which spares reading images."""
        for _, rows in self.grouped(stage, columns, units):
            yield from rows

    def grouped(
        self, stage: str, columns: Sequence[str] | None = None, units: Iterable[str] | None = None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Each unit's key with its rows, in order."""
        return self._tables.grouped(stage, columns, units)

    def verify(self, most: int | None = None) -> list[Damage]:
        """What isn't what was written: of all parts and files the size is looked at, and all bytes are read.

        With `most`, those of the smallest only that have as many bytes together. Whoever has opened the run for writing
        sets aside what is damaged, so that it is made anew.
        """
        files = {path: (name, kept) for name in self._stages() for path, kept in self._files(name).items()}
        found = damaged(self.path, self._manifest, files, most)
        return [self._tables.set_aside(each) for each in found]

    def files(self) -> int:
        """How many parts and files `verify` goes through."""
        return sum(1 for _ in self.recorded_files())

    def recorded_files(self) -> Iterator[tuple[str, int]]:
        """Yield the path in the run folder and the size of each part, and of each file of a finished stage."""
        yield from ((receipt.path, receipt.size) for receipt in self._manifest.parts())
        for name in self._stages():
            yield from ((path, kept.size) for path, kept in self._files(name).items())

    def copy_manifest(self, path: Path) -> None:
        """Copy the manifest to `path`, also while it is written to."""
        self._manifest.copy_to(path)

    def _stages(self) -> list[str]:
        return [name for (name,) in self._manifest.all("SELECT name FROM stages")]

    def _files(self, stage: str) -> Mapping[str, Kept]:
        finished = self.finished(stage)
        return {} if finished is None else finished.files
