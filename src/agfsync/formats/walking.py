"""Which files a folder holds, and where a file lies that another one names. No format of its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agfsync.formats.reading import UnusableRow

HIDDEN = frozenset(
    {
        "__macosx",
        "__pycache__",
        "$recycle.bin",
        "@eadir",
        "desktop.ini",
        "icon\r",
        "system volume information",
        "thumbs.db",
    }
)
"""Names, in lower case, that systems put beside people's files; any name that begins with a dot is hidden too."""


def is_hidden(name: str) -> bool:
    """True if a file or folder called `name` is a system's own, such as `.DS_Store`, `._a.png` or `Thumbs.db`."""
    return name.startswith(".") or name.casefold() in HIDDEN


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield every file in `folder` and below it in order of name, without hidden ones; links are followed.

    A link to a folder above it isn't followed. A link to nothing is yielded: it is a file that is missing.
    """
    return _walk(folder, ())


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        state = folder.stat()
        names = sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError:
        # Read by nobody: it is yielded, and whoever opens it reports why.
        yield folder
        return
    here = (state.st_dev, state.st_ino)
    if here in above:
        return
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walk(path, (*above, here))
        else:
            yield path


def locate(name: Any, *folders: Path) -> Path:
    """Return where the file `name` of a source lies, in the first of `folders` that has it, else in the first.

    The name is checked as it is written, so that links, such as those of the hub's cache, may lead anywhere. Windows's
    backslashes are understood.

    Raises:
        UnusableRow: it is outside of its folder (a fetched file must not make a run read the user's other files), on
            the web, or as no file can be called.
    """
    written = str(name)
    if written.partition(":")[0].lower() in ("http", "https", "s3", "gs", "hf"):
        raise UnusableRow("a picture on the web: fetch it, and name the file")
    try:
        nameable = "\0" not in written and bool(os.fsencode(written))
    except UnicodeError:
        nameable = False
    if not nameable:
        raise UnusableRow("a picture called as no file can be")
    parts = split_name(written)
    # Where an archive from Windows was unpacked, the backslash may be a part of the file's name.
    spelt = [parts] if ".." in written else [parts, [part for part in written.split("/") if part]]
    places = [folder.joinpath(*each) for folder in folders for each in spelt]
    return next((path for path in places if _exists(path)), places[0])


def split_name(name: str) -> list[str]:
    """Return the parts of a relative name, without `.` and `..`; Windows's backslashes are understood.

    Raises:
        UnusableRow: it leads outside of the folder that it is of.
    """
    plain = name.replace("\\", "/")
    parts: list[str] = []
    for part in plain.split("/"):
        if part == "..":
            if not parts:
                raise UnusableRow("a picture outside of its folder")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts or plain.startswith("/") or (plain[1:2] == ":" and plain[0].isalpha()):
        raise UnusableRow("a picture outside of its folder")
    return parts


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
