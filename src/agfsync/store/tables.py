"""The tables of a run folder, read from their parts; what turns out damaged is set aside."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.errors import DamagedError, StoreError
from agfsync.files.atomic import guarded
from agfsync.store import parts
from agfsync.store.integrity import CORRUPT, LOG, Damage
from agfsync.store.manifest import Manifest, now
from agfsync.store.shelf import Shelf
from agfsync.store.streams import some_of

SPAN = 64
"""Units read in one go."""

AFTER_IT = ".after-corrupt"
"""The ending of what was sound, and made with regard to what wasn't."""


class Tables:
    """The tables of the run folder `path`; `writing` says whether what is damaged may be set aside."""

    def __init__(self, path: Path, manifest: Manifest, *, writing: bool) -> None:
        self._path, self._manifest, self._writing = path, manifest, writing
        self.in_order: set[str] = set()
        """Tables of which each part was made with regard to those before it: a part is made anew with all after it."""
        self._shelf = Shelf()

    def grouped(
        self, stage: str, columns: Sequence[str] | None, units: Iterable[str] | None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Each unit's key with its rows, in order: of the whole table, or of `units`.

        Raises:
            StoreError: a part is missing or isn't what was written, or a unit isn't there.
        """
        for places in some_of(self._places(stage, units), SPAN):
            # Two generators' pictures of a caption, or two judges' words on one, lie in parts of their own.
            span_of = {place.unit: span for span in parts.spans(places) for place in span}
            rows: dict[str, list[dict[str, Any]]] = {}
            for place in places:
                if place.unit not in rows:
                    rows |= self._rows(stage, span_of[place.unit], columns)
                yield place.unit, rows.pop(place.unit)

    def set_aside(self, damage: Damage) -> Damage:
        """Set what is damaged aside and forget what it held, so that the next run makes it anew; who looks doesn't."""
        path = self._path / damage.path
        if not self._writing or path.suffix == LOG:
            return damage
        self._shelf.clear()
        self._away(path, CORRUPT)
        later = self._later(damage)
        for _, name in later:
            self._away(self._path / name, AFTER_IT)
        with self._manifest.transaction() as db:
            for part in [damage.part, *(number for number, _ in later)]:
                db.execute("DELETE FROM units WHERE part = ?", (part,))
                db.execute("DELETE FROM parts WHERE id = ?", (part,))
            db.execute("DELETE FROM stages WHERE name = ?", (owner(damage.stage),))
            db.execute("INSERT INTO quarantined VALUES (?, ?, ?, ?)", (damage.stage, damage.path, damage.fault, now()))
        return damage

    def _later(self, damage: Damage) -> list[tuple[int, str]]:
        """The parts, numbers and paths, that were made with regard to the damaged one."""
        if damage.part is None or damage.stage not in self.in_order:
            return []
        query = "SELECT id, path FROM parts WHERE stage = ? AND id > ?"
        return [(number, name) for number, name in self._manifest.all(query, damage.stage, damage.part)]

    def _away(self, path: Path, ending: str) -> None:
        with guarded(path):
            if path.exists():
                path.replace(path.with_name(path.name + ending))

    def _rows(
        self, stage: str, span: Sequence[parts.Place], columns: Sequence[str] | None
    ) -> dict[str, list[dict[str, Any]]]:
        """What neighbours hold."""
        part, first = span[0].part, span[0].first
        if part is None:
            return {place.unit: [] for place in span}
        end = span[-1].first + span[-1].rows
        key = (part, None if columns is None else tuple(columns))
        table = self._shelf.get(key, partial(self._load, stage, part, columns))
        if end == table.num_rows:
            self._shelf.ended(key)
        rows = table.slice(first, end - first).to_pylist()
        return {place.unit: rows[place.first - first : place.first - first + place.rows] for place in span}

    def _places(self, stage: str, units: Iterable[str] | None) -> Iterator[parts.Place]:
        if units is None:
            yield from self._manifest.places(stage)
            return
        for unit, place in self._manifest.places_of(stage, units):
            if place is None:
                again = f"type `agfsync {owner(stage)} {self._path}`"
                raise StoreError(f"{self._path}: {stage} has no unit '{unit}': {again}")
            yield place

    def _load(self, stage: str, part: int, columns: Sequence[str] | None) -> pa.Table:
        receipt = self._manifest.part(part)
        try:
            return parts.decode(self._path / receipt.path, columns, receipt)
        except parts.BadPart as fault:
            (units,) = self._manifest.one("SELECT count(*) FROM units WHERE part = ?", part)
            damage = self.set_aside(Damage(receipt.path, str(fault), stage, part, units))
            raise self._told(damage) from fault

    def _told(self, damage: Damage) -> StoreError:
        where = f"{self._path / damage.path} {damage.fault}"
        if not self._writing:
            return StoreError(f"{where}: the next `agfsync run` makes it anew")
        again = f"type the same command again to make its {damage.units} units anew"
        return DamagedError(f"{where}: it was set aside; {again}")


def owner(table: str) -> str:
    """The stage that `table` is of."""
    return table.partition("_")[0]
