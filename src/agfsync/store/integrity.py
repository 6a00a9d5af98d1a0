"""What lies in a run folder held against what was written there; and what nobody entered swept out.

A stage reads nothing without holding it against its sha256 (`parts.decode`). This is for what no stage reads now.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agfsync.files.atomic import guarded
from agfsync.store.manifest import Manifest
from agfsync.store.parts import BadPart, Kept, check_size

CORRUPT = ".corrupt"
"""The ending of what was set aside."""
LOG = ".jsonl"
"""The ending of a file to which a stage adds while it is at work: it can't be made anew without all that work."""
FOR_READERS = ".md"
"""The ending of what people may edit: nothing of ours reads it."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of the run folder, by its path in it, that isn't what was written, and of which stage or table it is.

    Of a part: its number in the manifest, and how many units it held.
    """

    path: str
    fault: str
    stage: str
    part: int | None = None
    units: int = 0

    def __str__(self) -> str:
        held = f", with {self.units} units" if self.part is not None else ""
        return f"{self.path}{held} {self.fault}"


def keep(run: Path, made: Iterable[str]) -> dict[str, Kept]:
    """What the files and folders `made` of the run folder hold now, by their paths in it."""
    kept: dict[str, Kept] = {}
    for path in (run / name for name in made):
        with guarded(path):
            for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
                if file.suffix != FOR_READERS:
                    kept[file.relative_to(run).as_posix()] = Kept(file.stat().st_size, _sha256(file))
    return kept


def damaged(run: Path, manifest: Manifest, files: Mapping[str, tuple[str, Kept]], most: int | None) -> Iterator[Damage]:
    """The parts in the manifest, and `files` (path -> its stage and what it held), that aren't what was written.

    With `most`, the bytes of the smallest only are read, up to so many together; of the others the size is looked at.
    """
    for damage, kept in sorted(_entered(manifest, files), key=lambda each: each[1].size):
        if most is not None:
            most -= kept.size
        try:
            check_size(run / damage.path, kept.size)
            with guarded(run / damage.path):
                if (most is None or most >= 0) and _sha256(run / damage.path) != kept.sha256:
                    raise BadPart("isn't what was written")
        except BadPart as fault:
            yield Damage(damage.path, str(fault), damage.stage, damage.part, damage.units)


def sweep(run: Path, manifest: Manifest) -> None:
    """Remove what a process left that was killed: parts that were never entered, and files that were being written.

    A stage would write over them; but others read the folder too, and would find things twice in it.
    """
    entered = {receipt.path for receipt in manifest.parts()}
    with guarded(run):
        for path in [*run.glob("*/part-*.parquet"), *run.glob("*/part-*.parquet.tmp"), *run.glob("*.tmp")]:
            if path.relative_to(run).as_posix() not in entered:
                path.unlink(missing_ok=True)


def _entered(manifest: Manifest, files: Mapping[str, tuple[str, Kept]]) -> Iterator[tuple[Damage, Kept]]:
    """Everything that was written, as the damage that it might have."""
    query = "SELECT id, stage, path, bytes, sha256, (SELECT count(*) FROM units WHERE part = parts.id) FROM parts"
    for part, stage, path, size, sha256, units in manifest.all(query):
        yield Damage(path, "", stage, part, units), Kept(size, sha256)
    for path, (stage, kept) in files.items():
        yield Damage(path, "", stage), kept


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
