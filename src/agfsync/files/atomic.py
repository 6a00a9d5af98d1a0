"""Atomic writes, folder locks, and clear messages for disk errors."""

import errno
import fcntl
import io
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agfsync.errors import InUseError, StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BROKEN = ("disk I/O error", "Input/output error")
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain_disk_error(failure: BaseException, path: Path) -> StoreError | None:
    """Return the error for a disk `failure`, even if a library has wrapped it; None for any other failure."""
    number = failure.errno if isinstance(failure, OSError) else None
    where = failure.filename if isinstance(failure, OSError) and failure.filename else path
    text = str(failure)
    if number in _FULL or "No space left on device" in text or "disk is full" in text:
        return StoreError(f"{where}: the disk is full: make room, then type the same command again")
    if any(sign in text for sign in _BROKEN):
        return StoreError(f"{where}: the disk fails, or is full: see to it, then type the same command again")
    if number in _FORBIDDEN or "readonly database" in text:
        return StoreError(f"{where}: writing isn't allowed: change its permissions, or choose another --out")
    return None


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn every error of the disk or the database at `path` within the context into a StoreError."""
    try:
        yield
    except (OSError, sqlite3.Error) as failure:
        says = getattr(failure, "strerror", None) or failure
        plain = StoreError(f"{path}: {says}: see to it, then type the same command again")
        raise explain_disk_error(failure, path) or plain from failure


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: even after a power cut, the file is either complete or the previous one.

    Raises:
        StoreError: the disk is full, or writing is not allowed.
    """
    beside = path.with_name(path.name + ".tmp")
    with store_errors(path):
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        flush_to_disk(path.parent)


def lock_folder(folder: Path, *, shared: bool = False) -> io.TextIOWrapper:
    """Take the lock of `folder` and return it; it is held until it is closed or the process ends, however it ends.

    The operating system holds the lock; the text in the file only names the holder for messages, so killed processes
    and reused process numbers do no harm. `shared` locks exclude exclusive ones, not each other. The package filelock
    does the same but loses the text: it empties the file at each attempt to take the lock.

    Raises:
        InUseError: a process holds the lock already; the message names it.
    """
    with store_errors(folder / "lock"):
        file = _open_lock(folder / "lock", shared)
        name = f"{os.getpid()} on {socket.gethostname()}"
        if _try_lock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if file.writable():
                file.truncate(0)
                file.write(name)
                file.flush()
            return file
        file.seek(0)
        holder = file.read().strip() or "unknown"
    file.close()
    if holder == name:
        raise InUseError(f"{folder} is in use by this process itself: close it there first, or open it to read")
    raise InUseError(f"{folder} is in use by process {holder}: wait for it, or stop it")


def _open_lock(path: Path, shared: bool) -> io.TextIOWrapper:
    try:
        return path.open("a+")
    except OSError as failure:
        if not shared or failure.errno not in _FORBIDDEN:
            raise
        return path.open()  # the folder is read-only


def _try_lock(file: io.TextIOWrapper, kind: int) -> bool:
    """Return True if the lock was taken, False if it is held; network file systems raise either of the errors."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def flush_to_disk(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk; without this a power cut may undo a rename."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace `folder` by the folder that `write` creates: it is always the complete new or the complete old one."""
    beside, before = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".before")
    with store_errors(folder):
        shutil.rmtree(beside, ignore_errors=True)
        write(beside)
        for path in beside.rglob("*"):
            flush_to_disk(path)
        shutil.rmtree(before, ignore_errors=True)
        if folder.exists():
            folder.rename(before)
        beside.rename(folder)
        flush_to_disk(folder.parent)
        shutil.rmtree(before, ignore_errors=True)
