"""Seals: a checksum and a copy next to a file that is written in place, while no process writes to it."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path

from agfsync.errors import DamagedError, StoreError
from agfsync.files.atomic import flush_to_disk, store_errors, write_atomic

SUM, COPY = ".sum", ".copy"


@dataclass(frozen=True, slots=True)
class Seal:
    """The checksum and the copy of the file at `path`; they exist from closing the file until the next write.

    After a writing process was killed there is no checksum: only the content shows whether the file is intact.
    """

    path: Path

    def check(self, *, restore: bool) -> bool:
        """Verify the file against its checksum; False if it has none, or doesn't exist. `restore` restores the copy.

        Raises:
            StoreError: it is damaged; once restored, the next command finds it intact.
        """
        if not self.path.is_file() or not (sum_ := self._read_sum()):
            return False
        # If a writer has started meanwhile, the checksum was removed or has changed.
        if compute_sha256(self.path) == sum_ or self._read_sum() != sum_:
            return True
        copy = self._path_with(COPY)
        exists = copy.is_file()
        if exists and compute_sha256(copy) == compute_sha256(self.path):
            return False  # The checksum itself is damaged.
        if not exists or compute_sha256(copy) != sum_:
            raise StoreError(f"{self.path} is damaged: put a copy of it back, or choose another --out")
        if not restore:
            raise DamagedError(f"{self.path} is damaged: the next `agfsync run` restores its copy")
        with store_errors(self.path):
            self.path.replace(self._path_with(".corrupt"))
            _copy_file(copy, self.path)
        raise StoreError(f"{self.path} is damaged: its copy was restored; type the same command again")

    def put(self) -> None:
        """Seal the file. The copy is written first: a checksum implies a copy."""
        with store_errors(self.path):
            _copy_file(self.path, self._path_with(COPY))
        write_atomic(self._path_with(SUM), compute_sha256(self.path).encode())

    def remove(self) -> None:
        """Unseal the file: the checksum is deleted from the disk before the file changes, even if the power fails."""
        with store_errors(self.path):
            self._path_with(SUM).unlink(missing_ok=True)
            flush_to_disk(self.path.parent)

    def describe_copy(self) -> str:
        """Return a description of the copy, for messages."""
        copy = self._path_with(COPY)
        if not copy.is_file():
            return "there is none next to it"
        at = datetime.fromtimestamp(copy.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return f"{copy.name} is one of {at}; later results would be regenerated"

    def _read_sum(self) -> str:
        with store_errors(self.path):
            try:
                return self._path_with(SUM).read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                return ""

    def _path_with(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


def compute_sha256(path: Path) -> str:
    """Return the sha256 of the file at `path`, in hex. Raises StoreError."""
    with store_errors(path), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _copy_file(source: Path, target: Path) -> None:
    temporary = target.with_name(target.name + ".tmp")
    try:
        shutil.copyfile(source, temporary)
        flush_to_disk(temporary)
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_to_disk(target.parent)
