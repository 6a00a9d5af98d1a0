"""Verification of a run folder against its checksums, and removal of files that aren't in the manifest.

A stage verifies each part that it reads (`parts.read_part`); this module verifies the other files, too.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agfsync.files.atomic import store_errors
from agfsync.store.manifest import Manifest
from agfsync.store.parts import DamagedPartError, FileChecksum, check_size
from agfsync.store.seal import compute_sha256

CORRUPT = ".corrupt"
"""The ending of a quarantined file."""
LOG = ".jsonl"
"""The ending of a file to which a stage appends while it runs; only a whole run of the stage regenerates it."""
FOR_READERS = ".md"
"""The ending of files that people may edit; the package doesn't read them."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file: its path in the run folder, its fault, and its stage or table.

    For a part, `part` is its number in the manifest and `units` the number of its units.
    """

    path: str
    fault: str
    stage: str
    part: int | None = None
    units: int = 0

    def __str__(self) -> str:
        units = f" ({self.units} unit{'s' if self.units != 1 else ''})" if self.part is not None else ""
        return f"{self.path}{units} {self.fault}"


def checksum_files(run: Path, made: Iterable[str]) -> dict[str, FileChecksum]:
    """Return the checksums of the files and folders `made`, by the paths of the files in the run folder."""
    sums: dict[str, FileChecksum] = {}
    for path in (run / name for name in made):
        with store_errors(path):
            for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
                if file.suffix != FOR_READERS:
                    sums[file.relative_to(run).as_posix()] = FileChecksum(file.stat().st_size, compute_sha256(file))
    return sums


def find_damage(
    run: Path, manifest: Manifest, files: Mapping[str, tuple[str, FileChecksum]], most: int | None
) -> Iterator[Damage]:
    """Yield the parts in the manifest, and the `files` (path -> its stage and checksum), that are damaged.

    With `most`, only the smallest are read, up to this many bytes in total; only the size of the others is checked.
    """
    for damage, expected in sorted(_list_all(manifest, files), key=lambda entry: entry[1].size):
        if most is not None:
            most -= expected.size
        try:
            check_size(run / damage.path, expected.size)
            if (most is None or most >= 0) and compute_sha256(run / damage.path) != expected.sha256:
                raise DamagedPartError("is damaged")
        except DamagedPartError as fault:
            yield Damage(damage.path, str(fault), damage.stage, damage.part, damage.units)


def remove_leftovers(run: Path, manifest: Manifest) -> None:
    """Remove the leftovers of a killed process: parts that aren't in the manifest, and files that were being written.

    A stage would overwrite them, but other programs that read the folder would find rows twice.
    """
    entered = {entry.path for entry in manifest.list_parts()}
    with store_errors(run):
        for path in [*run.glob("*/part-*.parquet"), *run.glob("*/part-*.parquet.tmp"), *run.glob("*.tmp")]:
            if path.relative_to(run).as_posix() not in entered:
                path.unlink(missing_ok=True)


def _list_all(
    manifest: Manifest, files: Mapping[str, tuple[str, FileChecksum]]
) -> Iterator[tuple[Damage, FileChecksum]]:
    """Yield (damage without a fault, expected checksum) for every part and file."""
    query = "SELECT id, stage, path, bytes, sha256, (SELECT count(*) FROM units WHERE part = parts.id) FROM parts"
    for part, stage, path, size, sha256, units in manifest.fetch_all(query):
        yield Damage(path, "", stage, part, units), FileChecksum(size, sha256)
    for path, (stage, expected) in files.items():
        yield Damage(path, "", stage), expected
