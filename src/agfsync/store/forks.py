"""Forks: a run folder that shares the files of another run, and continues on its own.

Parts and the files of finished stages are hard-linked, which is safe because this package never modifies a finished
file: a new file is written under another name and renamed, and a damaged one is renamed without a change of its bytes.
Files that are written in place, by the package or by people, are copied.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agfsync.errors import RunError, StoreError
from agfsync.files.atomic import flush_to_disk, lock_folder, store_errors, write_atomic
from agfsync.store import DATABASE, RECIPE, Run
from agfsync.store.integrity import FOR_READERS, LOG
from agfsync.store.parts import DamagedPartError, check_size

UNFINISHED = ".fork"
"""The ending of a fork's folder while it is built."""
IN_PLACE = {LOG, FOR_READERS}
"""Endings of files that the package or people write in place."""
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}
"""The errors of `os.link` on a disk that can't share the file."""


@dataclass(frozen=True, slots=True)
class Fork:
    """The result of a fork: the numbers of files that are shared with its base, and of files that were copied instead.

    `copied_bytes` is the size of the copies.
    """

    path: Path
    linked: int
    copied: int
    copied_bytes: int

    def __str__(self) -> str:
        if not self.copied:
            return f"{self.path}: shares {self.linked} files with its base"
        return (
            f"{self.path}: {self.copied} files ({self.copied_bytes / 1e6:.1f} MB) were copied, since its disk can't"
            f" share them with its base"
        )


def fork_run(base: Path, to: Path) -> Fork:
    """Create the run folder `to` from the run at `base`, with all of its results, so that nothing is drawn again.

    Other processes may read or fork `base` meanwhile. There is no run at `to` until the fork is complete.

    Raises:
        RunError: `to` exists, `base` is not a run, or a process writes to it.
        StoreError: the disk fails, or a file of `base` is missing.
    """
    if to.exists() or to.is_symlink():
        raise RunError(f"{to} exists already: choose another folder for the fork")
    Run.open(base).close()
    with closing(lock_folder(base, shared=True)), Run.open(base) as run:
        linked, copied, copied_bytes = _build_fork(run, to)
    return Fork(to, linked, copied, copied_bytes)


def fork_open_run(run: Run, to: Path) -> Fork:
    """Create the run folder `to` from a run that this process has open for writing.

    Raises:
        RunError: `to` exists.
        StoreError: the disk fails, or a file of the run is missing.
    """
    if to.exists() or to.is_symlink():
        raise RunError(f"{to} exists already: choose another folder for the fork")
    return Fork(to, *_build_fork(run, to))


def _build_fork(run: Run, to: Path) -> tuple[int, int, int]:
    """Build the fork next to `to`, and rename it once it is complete; return the counts of `Fork`."""
    linked = copied = copied_bytes = 0
    unfinished = to.with_name(to.name + UNFINISHED)
    with store_errors(unfinished):
        unfinished.mkdir(parents=True, exist_ok=True)
    with closing(lock_folder(unfinished)):
        _clear_folder(unfinished)
        for name, size in _list_shared(run):
            if _link_file(run.path / name, unfinished / name, size):
                linked += 1
            else:
                copied, copied_bytes = copied + 1, copied_bytes + size
        for path in _list_own(run):
            _copy_file(path, unfinished / path.relative_to(run.path))
        run.copy_manifest(unfinished / DATABASE)
        with store_errors(unfinished):
            for path in (unfinished, *unfinished.rglob("*")):
                if path.is_dir():
                    flush_to_disk(path)
        write_atomic(unfinished / RECIPE, run.recipe_yaml.encode())  # last: without it the folder is no run
        with store_errors(to):
            unfinished.rename(to)
            flush_to_disk(to.parent)
    return linked, copied, copied_bytes


def _list_shared(run: Run) -> Iterator[tuple[str, int]]:
    """Yield the paths and sizes of the files that both runs can share."""
    for name, size in run.recorded_files():
        if Path(name).suffix not in IN_PLACE:
            yield name, size


def _list_own(run: Run) -> Iterator[Path]:
    """Yield the files that each run needs for itself: those written in place, and the run's own small JSON files."""
    yield from run.path.glob("*.json")
    folders = {folder for name, _ in run.recorded_files() for folder in Path(name).parents} - {Path()}
    for folder in sorted(folders):
        yield from (path for path in (run.path / folder).iterdir() if path.suffix in IN_PLACE)


def _link_file(source: Path, target: Path, size: int) -> bool:
    """Link `target` to the file `source`; return False if it had to be copied.

    Raises:
        StoreError: `source` is missing, or its size has changed.
    """
    try:
        check_size(source, size)
    except DamagedPartError as fault:
        raise StoreError(f"{source} {fault}: type `agfsync run` on its run first, which regenerates it") from fault
    with store_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError as failure:
            if failure.errno not in NO_LINKS:
                raise
        else:
            return True
    _copy_file(source, target)
    return False


def _copy_file(source: Path, target: Path) -> None:
    with store_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        flush_to_disk(target)


def _clear_folder(folder: Path) -> None:
    """Remove the leftovers of a killed fork."""
    with store_errors(folder):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
