"""The run folder: Parquet parts, atomic commit, manifest, quarantine.

A part is written beside, flushed, renamed, and only then entered in the manifest, in one transaction. What is in the
manifest is there; what isn't never happened, and the next part of that stage takes its place. A stage's table is the
units that were selected for it: rows of other settings stay on disk, unselected, and are found again with the settings.
A stage may have tables beside its own, called STAGE_WHAT.
"""

import io
import json
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa

from agfsync import disk, parts
from agfsync.disk import guarded, write_atomic
from agfsync.errors import RunError, StoreError
from agfsync.manifest import Manifest, enter_part
from agfsync.records import Record, digest

R = TypeVar("R", bound=Record)

RECIPE = "recipe.yaml"
OWN = {"run.db", "run.db-journal", "lock", RECIPE, f"{RECIPE}.tmp"}
SELECTED = "WHERE stage = ? AND place IS NOT NULL"
OF_STAGE = "(stage = ?1 OR stage GLOB ?1 || '_*')"
"""Of the stage's own table, or of one beside it."""
TABLES_KEPT = 4
"""Parts kept in memory, so that a reader that goes to and fro between two parts doesn't read them anew each time."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a stage ended. `mark` names what it made, as later stages see it; `notes` are its own counts."""

    digest: str
    mark: str
    seconds: float
    units: int
    failures: int
    notes: Mapping[str, Any]
    ended: str


class Run:
    """A run folder. One process at a time writes to it; any number may look.

    Raises (from every method): StoreError when the disk fails or a part isn't what was written.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: io.TextIOWrapper | None) -> None:
        self.path = path
        self._manifest = manifest
        self._lock = lock
        self._tables: OrderedDict[tuple[int, tuple[str, ...] | None], pa.Table] = OrderedDict()

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
    def open(cls, path: Path, *, writing: bool = True) -> Self:
        """The run at `path`; `writing=False` only looks, beside whoever is at work on it.

        Raises:
            RunError: there is no run, or another process writes to it.
        """
        if not (path / RECIPE).is_file():
            raise RunError(f"no run at {path}: `agfsync run RECIPE --out {path}` makes one")
        return cls._opened(path, writing=writing, new=False)

    @classmethod
    def _opened(cls, path: Path, *, writing: bool, new: bool) -> Self:
        lock = disk.lock(path) if writing else None
        return cls(path, Manifest(path / "run.db") if new else Manifest.existing(path / "run.db"), lock)

    def close(self) -> None:
        self._manifest.close()
        if self._lock is not None:
            self._lock.close()

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
        part = self._write_part(stage, rows, schema) if rows else None
        with self._manifest.transaction() as db:
            number = None if part is None else enter_part(db, stage, part, seconds)
            first = 0
            for unit, records in outcomes.items():
                reasons = json.dumps(dict((dropped or {}).get(unit, {})))
                db.execute(
                    "INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (stage, unit, number if records else None, first, len(records), reasons),
                )
                db.execute("DELETE FROM failures WHERE stage = ? AND unit = ?", (stage, unit))
                first += len(records)

    def _write_part(self, stage: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> tuple[str, int, bytes]:
        """Writes the stage's next part; its path in the run folder, its rows and its bytes."""
        (last,) = self._manifest.one("SELECT max(path) FROM parts WHERE stage = ?", stage)
        number = 0 if last is None else int(Path(last).stem.removeprefix("part-")) + 1
        path = Path(stage) / f"part-{number:06}.parquet"
        data = parts.encode(rows, schema)
        with guarded(self.path / stage):
            (self.path / stage).mkdir(exist_ok=True)
        write_atomic(self.path / path, data)
        return path.as_posix(), len(rows), data

    def quarantine(self, stage: str, unit: str, reason: str) -> None:
        """Note that `unit` can't be done, and why. It is tried again when its stage runs again."""
        with self._manifest.transaction() as db:
            db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (stage, unit, reason))

    def select(self, stage: str, units: Iterable[str]) -> None:
        """Let the stage's table consist of `units`, in this order, without those that aren't done or have failed."""
        with self._manifest.transaction() as db:
            db.execute(f"UPDATE units SET place = NULL {SELECTED}", (stage,))
            db.executemany(
                "UPDATE units SET place = ?1 WHERE stage = ?2 AND key = ?3"
                " AND NOT EXISTS (SELECT 1 FROM failures WHERE stage = ?2 AND unit = ?3)",
                ((place, stage, unit) for place, unit in enumerate(units)),
            )

    def finish(self, stage: str, digest_: str, seconds: float, notes: Mapping[str, Any]) -> None:
        """Enter that `stage` is complete under the settings that `digest_` names, `seconds` after it was begun."""
        units = self.selected(stage)
        mark = digest("mark", units) if units else digest("mark", digest_)
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        row = (stage, digest_, mark, seconds, len(units), len(self.failures(stage)), json.dumps(notes), ended)
        with self._manifest.transaction() as db:
            db.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def reopen(self, stage: str) -> None:
        """Enter that `stage` isn't complete; its quarantined units get another try."""
        with self._manifest.transaction() as db:
            db.execute("DELETE FROM stages WHERE name = ?", (stage,))
            db.execute(f"DELETE FROM failures WHERE {OF_STAGE}", (stage,))

    # Looking

    def done(self, stage: str) -> set[str]:
        """The keys of the units that the stage has made, under these settings and any other."""
        return set(self.made(stage))

    def under_way(self, stage: str) -> int:
        """How many units of the stage are made, in all of its tables, under these settings and any other."""
        (count,) = self._manifest.one(f"SELECT count(*) FROM units WHERE {OF_STAGE}", stage)
        return int(count)

    def made(self, stage: str) -> list[str]:
        """`done`, in the order in which they were committed."""
        return [key for (key,) in self._manifest.all("SELECT key FROM units WHERE stage = ? ORDER BY rowid", stage)]

    def selected(self, stage: str) -> list[str]:
        """The keys of the units that the stage's table consists of, in order."""
        found = self._manifest.all(f"SELECT key FROM units {SELECTED} ORDER BY place", stage)
        return [key for (key,) in found]

    def failures(self, stage: str) -> dict[str, str]:
        """Quarantined units, each with its reason."""
        return dict(self._manifest.all("SELECT unit, reason FROM failures WHERE stage = ? ORDER BY rowid", stage))

    def dropped(self, stage: str) -> Counter[str]:
        """What the units of the stage's table left out, counted by reason."""
        total: Counter[str] = Counter()
        for (reasons,) in self._manifest.all(f"SELECT dropped FROM units {SELECTED}", stage):
            total.update(json.loads(reasons))
        return total

    def finished(self, stage: str) -> Finished | None:
        """How the stage ended, or None when it hasn't."""
        found = self._manifest.all("SELECT * FROM stages WHERE name = ?", stage)
        if not found:
            return None
        _, made_by, mark, seconds, units, failures, notes, ended = found[0]
        return Finished(made_by, mark, seconds, units, failures, json.loads(notes), ended)

    def newest_part(self) -> int:
        """The number of the part committed last, 0 when there is none."""
        (newest,) = self._manifest.one("SELECT coalesce(max(id), 0) FROM parts")
        return int(newest)

    def seconds(self, stage: str, until: int) -> float:
        """The time that making those parts of the stage's tables took that are numbered up to `until`."""
        used = f"id <= ?2 AND id IN (SELECT part FROM units WHERE {OF_STAGE} AND place IS NOT NULL)"
        (total,) = self._manifest.one(f"SELECT coalesce(sum(seconds), 0) FROM parts WHERE {used}", stage, until)
        return float(total)

    def read(self, stage: str, kind: type[R], units: Collection[str] | None = None) -> Iterator[R]:
        """The records of the stage's table, or of `units`, in order.

        Raises:
            StoreError: a part is missing or isn't what was written; it is set aside and its units are to be made anew.
        """
        return (kind.of(row) for row in self.rows(stage, units=units))

    def rows(
        self, stage: str, columns: Sequence[str] | None = None, units: Collection[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """`read`, as plain rows; of `columns` only, which spares reading images."""
        for _, rows in self.grouped(stage, columns, units):
            yield from rows

    def grouped(
        self, stage: str, columns: Sequence[str] | None = None, units: Collection[str] | None = None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Each unit's key with its rows, in order."""
        places = self._places(stage, self.selected(stage) if units is None else units)
        for span in parts.spans(places):
            part = span[0].part
            if part is None:
                yield from ((place.unit, []) for place in span)
                continue
            first, end = span[0].first, span[-1].first + span[-1].rows
            rows = self._table(part, columns).slice(first, end - first).to_pylist()
            for place in span:
                yield place.unit, rows[place.first - first : place.first - first + place.rows]

    def _places(self, stage: str, units: Collection[str]) -> Iterator[parts.Place]:
        query = "SELECT key, part, first, rows FROM units WHERE stage = ? AND key = ?"
        for unit in units:
            found = self._manifest.all(query, stage, unit)
            if not found:
                again = f"type `agfsync {_owner(stage)} {self.path}`"
                raise StoreError(f"{self.path}: {stage} has no unit '{unit}': {again}")
            yield parts.Place(*found[0])

    def _table(self, part: int, columns: Sequence[str] | None) -> pa.Table:
        key = (part, None if columns is None else tuple(columns))
        if key not in self._tables:
            self._tables[key] = self._load(part, columns)
        self._tables.move_to_end(key)
        while len(self._tables) > TABLES_KEPT:
            self._tables.popitem(last=False)
        return self._tables[key]

    def _load(self, part: int, columns: Sequence[str] | None) -> pa.Table:
        name, size, sha256 = self._manifest.one("SELECT path, bytes, sha256 FROM parts WHERE id = ?", part)
        try:
            return parts.decode(self.path / name, columns, size, sha256)
        except parts.BadPart as fault:
            raise self._set_aside(part, self.path / name, str(fault)) from fault

    def _set_aside(self, part: int, path: Path, fault: str) -> StoreError:
        """Set a bad part aside and forget its units, so that the next run makes them anew."""
        if self._lock is None:
            return StoreError(f"{path} {fault}: the next `agfsync run` makes it anew")
        if path.exists():
            with guarded(path):
                path.replace(path.with_name(path.name + ".corrupt"))
        self._tables.clear()
        stage, units = self._manifest.one("SELECT stage, count(*) FROM units WHERE part = ?", part)
        with self._manifest.transaction() as db:
            db.execute("DELETE FROM units WHERE part = ?", (part,))
            db.execute("DELETE FROM parts WHERE id = ?", (part,))
            db.execute("DELETE FROM stages WHERE name = ?", (_owner(stage),))
        again = f"type the same command again to make its {units} units anew"
        return StoreError(f"{path} {fault}: it was set aside; {again}")


def _owner(table: str) -> str:
    """The stage that `table` is of."""
    return table.partition("_")[0]
