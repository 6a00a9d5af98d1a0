"""The run folder: Parquet parts, atomic commit, manifest, quarantine.

A part is written to a temporary file, flushed, renamed, and only then entered in the manifest, in one transaction. A
part that is in the manifest exists; one that isn't is overwritten by the next part of its stage. A stage's table
consists of the units selected for it: rows of other settings stay on disk, unselected, and are reused if the settings
return. A stage may have further tables, named STAGE_WHAT.
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
from agfsync.files.atomic import lock_folder, store_errors, write_atomic
from agfsync.records import Record, digest, digest_lists
from agfsync.store import parts
from agfsync.store.integrity import Damage, checksum_files, find_damage, remove_leftovers
from agfsync.store.manifest import SELECTED, Finished, Manifest, Skipped, current_time
from agfsync.store.parts import FileChecksum
from agfsync.store.tables import TableReader

_R = TypeVar("_R", bound=Record)

RECIPE, DATABASE = "recipe.yaml", "run.db"
STUDY_FILE = "study.yaml"
"""the file of a study's folder that corresponds to a run's `RECIPE`"""
OWN = {"lock", RECIPE, f"{RECIPE}.tmp", *(DATABASE + end for end in ("", "-journal", ".sum", ".copy"))}
OF_STAGE = "(stage = ?1 OR stage GLOB ?1 || '_*')"
"""The condition that selects all tables of a stage."""


class Run:
    """A run folder. One process at a time writes to it; any number may read.

    Every method raises StoreError when the disk fails or a part is damaged.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: io.TextIOWrapper | None) -> None:
        self.path = path
        self._manifest = manifest
        self._lock = lock
        self._tables = TableReader(path, manifest, writing=lock is not None)

    @classmethod
    def create(cls, path: Path, recipe_yaml: str) -> Self:
        """Create a run at `path` and open it for writing.

        Raises:
            RunError: `path` is in use, is a run already, or contains other files.
        """
        if (path / RECIPE).exists():
            raise RunError(f"{path} is a run already: choose another --out")
        if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - OWN):
            reason = "is a file" if path.is_file() else "contains files that aren't a run's"
            raise RunError(f"{path} {reason}: choose another --out")
        with store_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls._open_folder(path, writing=True, new=True)
        write_atomic(path / RECIPE, recipe_yaml.encode())
        return run

    @classmethod
    def open(cls, path: Path, *, writing: bool = False) -> Self:
        """Open the run at `path` for reading, without a lock; with `writing`, lock it against other writers.

        Raises:
            RunError: there is no run, it has another format, or another process writes to it.
        """
        if not (path / RECIPE).is_file():
            raise RunError(_explain_absence(path))
        return cls._open_folder(path, writing=writing, new=False)

    @classmethod
    def _open_folder(cls, path: Path, *, writing: bool, new: bool) -> Self:
        lock = lock_folder(path) if writing else None
        try:
            database = path / DATABASE
            manifest = Manifest.create(database) if new else Manifest.open(database, writing=writing)
            if writing:
                remove_leftovers(path, manifest)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        return cls(path, manifest, lock)

    def close(self) -> None:
        """Close the manifest and release the lock."""
        try:
            self._manifest.close()
        finally:
            if self._lock is not None:
                self._lock.close()

    def declare_ordered(self, stage: str) -> None:
        """Declare that each unit of the stage depends on those before it, and is reproducible."""
        self._tables.ordered.add(stage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def recipe_yaml(self) -> str:
        """The text of the recipe that this run follows."""
        with store_errors(self.path / RECIPE):
            return (self.path / RECIPE).read_text(encoding="utf-8")

    def rewrite_recipe(self, recipe_yaml: str) -> None:
        """Replace the recipe that this run follows; no finished work is lost."""
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
        """Write the rows of units (key -> rows) as one part and add it to the manifest, atomically.

        `dropped` has for each unit the number of records that it left out, by reason; `seconds` is the time it took.
        """
        rows = [record.row() for records in outcomes.values() for record in records]
        part = parts.write_part(self.path, self._next_part(stage), rows, schema) if rows else None
        counts = {unit: len(records) for unit, records in outcomes.items()}
        self.enter(stage, counts, part, dropped=dropped, seconds=seconds)

    def enter(
        self,
        stage: str,
        units: Mapping[str, int],
        part: parts.PartEntry | None,
        *,
        dropped: Mapping[str, Mapping[str, int]] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Add a written part to the manifest; it holds the rows of `units` (key -> number of rows) in order.

        `part` is None if no unit has a row.
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
        """Return the path of the stage's next part in the run folder."""
        (last,) = self._manifest.fetch_one("SELECT max(path) FROM parts WHERE stage = ?", stage)
        number = 0 if last is None else int(Path(last).stem.split("-")[1]) + 1
        return f"{stage}/part-{number:06}.parquet"

    def reserve_part(self, stage: str) -> str:
        """Return a unique path in the run folder for a part that another process writes.

        The file isn't a part before `enter`: leftovers are removed when the run is opened for writing.
        """
        return self._next_part(stage).replace(".parquet", f"-{uuid4().hex[:12]}.parquet")

    def skip(self, stage: str, key: str, reason: str, where: str = "", count: int = 1) -> None:
        """Record that `key` of `stage` can't be done because of `reason`; `where` names the faulty file or row.

        A unit that is skipped isn't part of the stage's table. It is tried again when its stage runs again.
        """
        self._manifest.skip(Skipped(stage, key, reason, where, count))

    def select(self, stage: str, units: Iterable[str]) -> None:
        """Make the stage's table consist of `units`, in this order, without those that aren't done or are skipped.

        The iterable may itself read the run's tables.
        """
        self._manifest.select(stage, units)

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
        """Record that `stage` is complete with the settings of `digest_` and took `seconds`.

        `made` are the paths, in the run folder, of the files and folders that it wrote in addition to its tables. With
        `by_rows`, regenerating a unit may give different rows.
        """
        rows = self._regenerated_rows(stage) if by_rows else []
        mark = digest_lists("mark", self.list_selected(stage), *rows) if self.count(stage) else digest("mark", digest_)
        skipped = sum(entry.count for entry in self.list_skipped(stage))
        length, files = self.count_rows(stage), checksum_files(self.path, made)
        self._manifest.finish(stage, Finished(digest_, mark, seconds, length, skipped, notes, files, current_time()))

    def _regenerated_rows(self, stage: str) -> list[Iterator[str]]:
        """Return the keys of the stage's rows if a part was ever quarantined: its units may have other rows since."""
        if not self._manifest.fetch_all("SELECT 1 FROM quarantined WHERE stage = ? LIMIT 1", stage):
            return []
        return [(row["key"] for row in self.rows(stage, ["key"]))]

    def reopen(self, stage: str) -> None:
        """Record that `stage` isn't complete; skipped units are tried again."""
        with self._manifest.transaction() as db:
            db.execute("DELETE FROM stages WHERE name = ?", (stage,))
            db.execute(f"DELETE FROM skipped WHERE {OF_STAGE}", (stage,))

    # Reading

    def find_done(self, stage: str, units: Iterable[str]) -> set[str]:
        """Return those of `units` that the stage has made."""
        return {unit for unit, place in self._manifest.find_places(stage, units) if place is not None}

    def count_made(self, stage: str) -> int:
        """Return the number of units that the stage has made, in all of its tables, under any settings."""
        (count,) = self._manifest.fetch_one(f"SELECT count(*) FROM units WHERE {OF_STAGE}", stage)
        return int(count)

    def list_made(self, stage: str) -> list[str]:
        """Return the keys of all units that the stage has made, under any settings, in the order of commits."""
        return [
            key for (key,) in self._manifest.fetch_all("SELECT key FROM units WHERE stage = ? ORDER BY rowid", stage)
        ]

    def list_selected(self, stage: str) -> Iterator[str]:
        """Return the keys of the units of the stage's table, in order."""
        return (place.unit for place in self._manifest.list_places(stage))

    def count(self, stage: str) -> int:
        """Return the number of units of the stage's table."""
        (units,) = self._manifest.fetch_one(f"SELECT count(*) FROM units {SELECTED}", stage)
        return int(units)

    def count_rows(self, stage: str) -> int:
        """Return the number of rows of the stage's table."""
        (rows,) = self._manifest.fetch_one(f"SELECT coalesce(sum(rows), 0) FROM units {SELECTED}", stage)
        return int(rows)

    def list_skipped(self, stage: str, *, own: bool = False) -> list[Skipped]:
        """Return the skipped items of the stage's tables, or of its `own` table only, in the order of recording."""
        return self._manifest.list_skipped("stage = ?1" if own else OF_STAGE, stage)

    def count_dropped(self, stage: str) -> Counter[str]:
        """Return the number of records that the units of the stage's table dropped, by reason."""
        total: Counter[str] = Counter()
        query = f"SELECT dropped, count(*) FROM units {SELECTED} GROUP BY dropped ORDER BY min(place)"
        for reasons, units in self._manifest.fetch_all(query, stage):
            total.update({reason: count * units for reason, count in json.loads(reasons).items()})
        return total

    def find_finished(self, stage: str) -> Finished | None:
        """Return how the stage ended, or None if it hasn't."""
        return self._manifest.find_finished(stage)

    def find_newest_part(self) -> int:
        """Return the number of the last part, 0 if there is none."""
        (newest,) = self._manifest.fetch_one("SELECT coalesce(max(id), 0) FROM parts")
        return int(newest)

    def sum_seconds(self, stage: str, until: int) -> float:
        """Return the seconds that the parts of the stage's tables took, up to the part number `until`."""
        used = f"id <= ?2 AND id IN (SELECT part FROM units WHERE {OF_STAGE} AND place IS NOT NULL)"
        (total,) = self._manifest.fetch_one(f"SELECT coalesce(sum(seconds), 0) FROM parts WHERE {used}", stage, until)
        return float(total)

    def read(self, stage: str, kind: type[_R], units: Iterable[str] | None = None) -> Iterator[_R]:
        """Yield the records of the stage's table, or of `units`, in order.

        Raises:
            StoreError: a part is missing or is damaged; it is quarantined, to be regenerated.
        """
        return (kind.of(row) for row in self.rows(stage, units=units))

    def rows(
        self, stage: str, columns: Sequence[str] | None = None, units: Iterable[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield rows as dictionaries, otherwise like `read`; with `columns`, only these, without reading images."""
        for _, rows in self.rows_by_unit(stage, columns, units):
            yield from rows

    def rows_by_unit(
        self, stage: str, columns: Sequence[str] | None = None, units: Iterable[str] | None = None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield each unit's key with its rows, in order."""
        return self._tables.rows_by_unit(stage, columns, units)

    def verify(self, most: int | None = None) -> list[Damage]:
        """Return the damaged parts and files, by their sizes and checksums.

        With `most`, only the smallest files are read, up to this many bytes in total. A run that is open for writing
        quarantines damaged files, so that they are regenerated.
        """
        files = {path: (name, sum_) for name in self._stage_names() for path, sum_ in self._stage_files(name).items()}
        damages = find_damage(self.path, self._manifest, files, most)
        return [self._tables.quarantine(damage) for damage in damages]

    def count_files(self) -> int:
        """Return the number of parts and files that `verify` checks."""
        return sum(1 for _ in self.recorded_files())

    def recorded_files(self) -> Iterator[tuple[str, int]]:
        """Yield the path in the run folder and the size of each part, and of each file of a finished stage."""
        yield from ((entry.path, entry.size) for entry in self._manifest.list_parts())
        for name in self._stage_names():
            yield from ((path, checksum.size) for path, checksum in self._stage_files(name).items())

    def copy_manifest(self, path: Path) -> None:
        """Copy the manifest to `path`, even while a process writes to it."""
        self._manifest.copy_to(path)

    def _stage_names(self) -> list[str]:
        return [name for (name,) in self._manifest.fetch_all("SELECT name FROM stages")]

    def _stage_files(self, stage: str) -> Mapping[str, FileChecksum]:
        finished = self.find_finished(stage)
        return {} if finished is None else finished.files


def _explain_absence(path: Path) -> str:
    """Return the reason why there is no run at `path`, and what to do."""
    if (path / STUDY_FILE).is_file():
        return f"{path} is a study, not a run: `agfsync study status {path}` lists its runs"
    if path.is_file():
        return f"{path} is a file: give the folder that `agfsync run --out` made"
    if path.exists():
        return f"{path} isn't the folder of a run: it has no {RECIPE}; give the folder that `agfsync run --out` made"
    return f"no run at {path}: `agfsync run RECIPE --out {path}` makes one"
