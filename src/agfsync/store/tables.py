"""The tables of a run folder, read from their parts; parts that turn out damaged are quarantined."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.errors import DamagedError, StoreError
from agfsync.files.atomic import store_errors
from agfsync.store import parts
from agfsync.store.integrity import CORRUPT, LOG, Damage
from agfsync.store.manifest import Manifest, current_time
from agfsync.store.streams import iterate_batches

UNITS_AT_ONCE = 64
"""Units read at a time."""
CACHED_PARTS, CACHED_BYTES = 32, 1 << 30
"""LRU limits of the part cache: the number of writers whose parts may interleave in a table, and bytes."""
AFTER_CORRUPT = ".after-corrupt"
"""The ending of an intact part that depends on a damaged one."""

CacheKey = tuple[int, tuple[str, ...] | None]
"""A part's number, and its columns."""


class TableReader:
    """Reads the tables of the run folder `path`; with `writing`, damaged parts are quarantined."""

    def __init__(self, path: Path, manifest: Manifest, *, writing: bool) -> None:
        self._path, self._manifest, self._writing = path, manifest, writing
        self.ordered: set[str] = set()
        """Tables whose parts depend on earlier parts: a part is regenerated together with all later ones."""
        self._cache = PartCache()

    def rows_by_unit(
        self, stage: str, columns: Sequence[str] | None, units: Iterable[str] | None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield each unit's key with its rows, in order: of the whole table, or of `units`.

        Raises:
            StoreError: a part is missing or damaged, or a unit is missing.
        """
        for places in iterate_batches(self._find_places(stage, units), UNITS_AT_ONCE):
            # Two models' images of a caption, or two judges' scores of an image, are in different parts.
            span_of = {place.unit: span for span in parts.group_spans(places) for place in span}
            rows: dict[str, list[dict[str, Any]]] = {}
            for place in places:
                if place.unit not in rows:
                    rows |= self._read_span(stage, span_of[place.unit], columns)
                yield place.unit, rows.pop(place.unit)

    def quarantine(self, damage: Damage) -> Damage:
        """Rename a damaged file and delete its units from the manifest, to be regenerated; only when writing.

        Its bytes stay the same, since forks may share the file.
        """
        path = self._path / damage.path
        if not self._writing or path.suffix == LOG:
            return damage
        self._cache.clear()
        _rename_away(path, CORRUPT)
        later = self._find_later(damage)
        for _, name in later:
            _rename_away(self._path / name, AFTER_CORRUPT)
        with self._manifest.transaction() as db:
            for part in [damage.part, *(number for number, _ in later)]:
                db.execute("DELETE FROM units WHERE part = ?", (part,))
                db.execute("DELETE FROM parts WHERE id = ?", (part,))
            db.execute("DELETE FROM stages WHERE name = ?", (stage_of_table(damage.stage),))
            db.execute(
                "INSERT INTO quarantined VALUES (?, ?, ?, ?)", (damage.stage, damage.path, damage.fault, current_time())
            )
        return damage

    def _find_later(self, damage: Damage) -> list[tuple[int, str]]:
        """Return the numbers and paths of the parts whose content depends on the damaged one."""
        if damage.part is None or damage.stage not in self.ordered:
            return []
        query = "SELECT id, path FROM parts WHERE stage = ? AND id > ?"
        return [(number, name) for number, name in self._manifest.fetch_all(query, damage.stage, damage.part)]

    def _read_span(
        self, stage: str, span: Sequence[parts.UnitPlace], columns: Sequence[str] | None
    ) -> dict[str, list[dict[str, Any]]]:
        part, first = span[0].part, span[0].first
        if part is None:
            return {place.unit: [] for place in span}
        end = span[-1].first + span[-1].rows
        key = (part, None if columns is None else tuple(columns))
        table = self._cache.get(key, partial(self._load_part, stage, part, columns))
        if end == table.num_rows:
            self._cache.mark_finished(key)
        rows = table.slice(first, end - first).to_pylist()
        return {place.unit: rows[place.first - first : place.first - first + place.rows] for place in span}

    def _find_places(self, stage: str, units: Iterable[str] | None) -> Iterator[parts.UnitPlace]:
        if units is None:
            yield from self._manifest.list_places(stage)
            return
        for unit, place in self._manifest.find_places(stage, units):
            if place is None:
                advice = f"type `agfsync {stage_of_table(stage)} {self._path}`"
                raise StoreError(f"{self._path}: {stage} has no unit '{unit}': {advice}")
            yield place

    def _load_part(self, stage: str, part: int, columns: Sequence[str] | None) -> pa.Table:
        entry = self._manifest.find_part(part)
        try:
            return parts.read_part(self._path / entry.path, columns, entry)
        except parts.DamagedPartError as fault:
            (units,) = self._manifest.fetch_one("SELECT count(*) FROM units WHERE part = ?", part)
            damage = self.quarantine(Damage(entry.path, str(fault), stage, part, units))
            raise self._describe_damage(damage) from fault

    def _describe_damage(self, damage: Damage) -> StoreError:
        where = f"{self._path / damage.path} {damage.fault}"
        if not self._writing:
            return StoreError(f"{where}: the next `agfsync run` regenerates it")
        advice = f"type the same command again to regenerate its {damage.units} units"
        return DamagedError(f"{where}: it was quarantined; {advice}")


class PartCache:
    """LRU cache of parts; parts that were read to their end are dropped when another is loaded."""

    def __init__(self) -> None:
        self._tables: OrderedDict[CacheKey, pa.Table] = OrderedDict()
        self._finished: set[CacheKey] = set()

    def get(self, key: CacheKey, load: Callable[[], pa.Table]) -> pa.Table:
        """Return the table from the cache, or load it."""
        self._finished.discard(key)
        if key not in self._tables:
            # A reader of the whole table is done with a part when it requests the next.
            while self._finished:
                self._tables.pop(self._finished.pop(), None)
            self._tables[key] = load()
        self._tables.move_to_end(key)
        table = self._tables[key]
        while len(self._tables) > 1 and self._is_full():
            self._tables.popitem(last=False)
        return table

    def mark_finished(self, key: CacheKey) -> None:
        """Note that the last rows of the part were read."""
        self._finished.add(key)

    def clear(self) -> None:
        """Remove every part."""
        self._tables.clear()
        self._finished.clear()

    def _is_full(self) -> bool:
        return len(self._tables) > CACHED_PARTS or sum(table.nbytes for table in self._tables.values()) > CACHED_BYTES


def stage_of_table(table: str) -> str:
    """Return the stage that `table` belongs to.

    >>> stage_of_table("evaluation_images")
    'evaluation'
    """
    return table.partition("_")[0]


def _rename_away(path: Path, ending: str) -> None:
    with store_errors(path):
        if path.exists():
            path.replace(path.with_name(path.name + ending))
