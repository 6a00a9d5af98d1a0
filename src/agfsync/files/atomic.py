"""Files that are whole or not there, and a full disk that says so."""

import errno
import fcntl
import io
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agfsync.errors import RunError, StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BROKEN = ("disk I/O error", "Input/output error")
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain_disk_error(failure: BaseException, path: Path) -> StoreError | None:
    """Return the message for a `failure` of the disk, else None. Libraries wrap the disk's errors in their own."""
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
    """Turn whatever goes wrong within with `path`, or the database at it, into a StoreError."""
    try:
        yield
    except (OSError, sqlite3.Error) as failure:
        plain = StoreError(f"{path}: {failure}: see to it, then type the same command again")
        raise explain_disk_error(failure, path) or plain from failure


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that the file is either whole or the one that was there before, also after a power cut.

    Raises:
        StoreError: the disk is full or doesn't allow it.
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
    """Take the lock of `folder` and return it, held until it is closed or the process ends, however it ends.

    The system holds it, not the text in the file, which only tells the others by whom: that a process of this number
    is alive, or that one was killed, changes nothing. `shared` ones exclude the others, not each other. The package
    filelock does as much but for the text, which it empties whenever somebody tries to take the lock.

    Raises:
        RunError: somebody else holds it; the message says who.
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
        raise RunError(f"{folder} is in use by this process itself: close it there first, or open it to read")
    raise RunError(f"{folder} is in use by process {holder}: wait for it, or stop it")


def _open_lock(path: Path, shared: bool) -> io.TextIOWrapper:
    try:
        return path.open("a+")
    except OSError as failure:
        if not shared or failure.errno not in _FORBIDDEN:
            raise
        return path.open()  # of a folder that may only be read


def _try_lock(file: io.TextIOWrapper, kind: int) -> bool:
    """Return False if somebody else has it; network file systems say so in either way."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def flush_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk: without it a rename may be lost in a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
