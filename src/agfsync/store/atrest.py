"""A file that is written in place, while nobody writes to it: its sum and a copy lie beside it."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path

from agfsync.errors import DamagedError, StoreError
from agfsync.files.atomic import flush, guarded, write_atomic

SUM, COPY = ".sum", ".copy"


@dataclass(frozen=True, slots=True)
class AtRest:
    """What guards the file at `path` between one process that writes to it and the next.

    Where that one was killed there is no sum: then nobody can tell but by what is in the file.
    """

    path: Path

    def check(self, *, mend: bool) -> bool:
        """Hold the file against its sum; False where it has none, or isn't there. `mend` puts the copy in its place.

        Raises:
            StoreError: it isn't what was written; after mending, the next command finds it whole.
        """
        if not self.path.is_file() or not (sum_ := self._sum()):
            return False
        # Somebody may have begun to write to it meanwhile, beside us who only look: then its sum is gone, or another.
        if _sha256(self.path) == sum_ or self._sum() != sum_:
            return True
        copy = self._beside(COPY)
        there = copy.is_file()
        if there and _sha256(copy) == _sha256(self.path):
            return False  # It is the sum that isn't what was written.
        if not there or _sha256(copy) != sum_:
            raise StoreError(f"{self.path} isn't what was written: put a copy of it back, or choose another --out")
        if not mend:
            raise DamagedError(f"{self.path} isn't what was written: the next `agfsync run` puts its copy in its place")
        with guarded(self.path):
            self.path.replace(self._beside(".corrupt"))
            _copied(copy, self.path)
        raise StoreError(
            f"{self.path} isn't what was written: its copy was put in its place; type the same command again"
        )

    def begin(self) -> None:
        """From now on nobody writes to the file. The copy comes first: a sum says that there is one."""
        with guarded(self.path):
            _copied(self.path, self._beside(COPY))
        write_atomic(self._beside(SUM), _sha256(self.path).encode())

    def end(self) -> None:
        """From now on somebody does. The sum is gone from the disk before the file changes, power cut or not."""
        with guarded(self.path):
            self._beside(SUM).unlink(missing_ok=True)
            flush(self.path.parent)

    def told(self) -> str:
        """What copy there is."""
        copy = self._beside(COPY)
        if not copy.is_file():
            return "there is none beside it"
        at = datetime.fromtimestamp(copy.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return f"{copy.name} is one of {at}, and what was made since then would be made anew"

    def _sum(self) -> str:
        with guarded(self.path):
            try:
                return self._beside(SUM).read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                return ""

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


def _sha256(path: Path) -> str:
    with guarded(path), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _copied(source: Path, target: Path) -> None:
    beside = target.with_name(target.name + ".tmp")
    try:
        shutil.copyfile(source, beside)
        flush(beside)
        beside.replace(target)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    flush(target.parent)
