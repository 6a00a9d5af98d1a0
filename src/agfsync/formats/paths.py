"""Finds the files of a source, their splits, and the files that a row names. It isn't a format.

Splits are recognised by the names that Hugging Face datasets use:
https://huggingface.co/docs/datasets/repository_structure
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from agfsync.errors import FormatError
from agfsync.formats import LeftOut
from agfsync.formats.reading import Row, Rows, UnusableRow

_T = TypeVar("_T")

ALL_SPLITS = "all"
"""The name for all splits together."""

_HIDDEN = {
    *("__macosx", "__pycache__", "$recycle.bin", "@eadir", "desktop.ini", "icon\r", "thumbs.db"),
    "system volume information",
}
"""Lower-case names of files and folders that systems create; names that begin with a dot are also hidden."""
_SPLIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_NO_SPLITS = {"data", "part", "shard", "chunk", "output"}
"""Names of shards without a split."""
_SHARD_NAME = re.compile(r"(.+)[-_.]\d{5}-of-\d{5}")
_WORD_BORDER = re.compile(r"[-_. ]+|(?<=\D)(?=\d)")
_FILES_TRIED = 8
"""Number of files to open when recognising a folder."""


def is_hidden(name: str) -> bool:
    """Return True if `name` is that of a hidden or system file or folder, such as `.DS_Store` or `Thumbs.db`."""
    return name.startswith(".") or name.casefold() in _HIDDEN


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files in `folder` and its subfolders in order of name, except hidden ones. Links are followed.

    A link to one of its own parent folders isn't followed. A dangling link is yielded, as a missing file.
    """
    return _walk(folder, ())


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        state = folder.stat()
        names = sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError:
        # The folder can't be read: the caller reports why when it opens it.
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


def locate_image(name: Any, *folders: Path) -> Path:
    """Return the path of the file `name` in the first of `folders` that has it, else in the first folder.

    Only the name is checked, not the targets of links, since links in the hub's cache may lead anywhere.

    Raises:
        UnusableRow: the name is a web address, isn't a valid file name, or leads outside of its folder: a downloaded
            file must not make a run read the user's other files.
    """
    written = str(name)
    if written.partition(":")[0].lower() in ("http", "https", "s3", "gs", "hf"):
        raise UnusableRow("an image on the web: fetch it, and name the file")
    try:
        possible = "\0" not in written and bool(os.fsencode(written))
    except UnicodeError:
        possible = False
    if not possible:
        raise UnusableRow("an image called as no file can be")
    parts = split_relative_name(written)
    # A backslash may be part of a file's name, if an archive from Windows was unpacked on another system.
    spellings = [parts] if ".." in written else [parts, [part for part in written.split("/") if part]]
    places = [folder.joinpath(*each) for folder in folders for each in spellings]
    return next((path for path in places if _is_file(path)), places[0])


def split_relative_name(name: str) -> list[str]:
    """Return the parts of a relative name, without `.` and `..`; backslashes count as slashes.

    Raises:
        UnusableRow: it leads outside of its folder.
    """
    plain = name.replace("\\", "/")
    parts: list[str] = []
    for part in plain.split("/"):
        if part == "..":
            if not parts:
                raise UnusableRow("an image outside of its folder")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts or plain.startswith("/") or (plain[1:2] == ":" and plain[0].isalpha()):
        raise UnusableRow("an image outside of its folder")
    return parts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def split_of(parts: Sequence[str]) -> str:
    """Return the split of a file by the `parts` of its path in the data set's folder; empty if they name none.

    The name of a shard takes precedence, then the folders from the innermost outwards, then the name of another file.

    >>> split_of(["data", "validation_unique-00000-of-00001.parquet"])
    'validation_unique'
    >>> split_of(["test", "0000.parquet"])
    'test'
    """
    *folders, file = parts
    stem = file.rpartition(".")[0] or file
    if shard := _SHARD_NAME.fullmatch(stem):
        words = _split_words(shard[1])
        if words and words[0] not in _SPLIT_WORDS:
            return _usual_split(shard[1]) or ("" if words[0] in _NO_SPLITS else shard[1])
        return shard[1]
    return next((split for name in [*reversed(folders), stem] if (split := _usual_split(name))), "")


def _usual_split(name: str) -> str:
    """Return train, validation or test, whichever a name contains first, also as a synonym; empty if none."""
    return next((_SPLIT_WORDS[word] for word in _split_words(name) if word in _SPLIT_WORDS), "")


def _split_words(name: str) -> list[str]:
    return [word for word in _WORD_BORDER.split(name.casefold()) if word]


def take_split(root: Path, files: Iterable[tuple[str, _T]], split: str) -> tuple[list[_T], dict[str, list[_T]]]:
    """Return the `files` in `split`, and the others by their splits; each file is given as (split, file).

    Without a `split`, all files are returned if there is one split at most, else those of train, else those without a
    split.

    Raises:
        FormatError: there is no such split, or several and none is train.

    >>> take_split(Path("set"), [("train", "a.csv"), ("test", "b.csv")], "")
    (['a.csv'], {'test': ['b.csv']})
    """
    by_split: dict[str, list[_T]] = {}
    for name, file in files:
        by_split.setdefault(name, []).append(file)
    taken = _choose_splits(root, list(by_split), split)
    others = {name: of for name, of in by_split.items() if name not in taken}
    return [file for name in by_split if name in taken for file in by_split[name]], others


def _choose_splits(root: Path, there: list[str], split: str) -> set[str]:
    named = [name for name in there if name]
    if split == ALL_SPLITS or (not split and len(there) < 2):
        return set(there)
    if not split:
        trains = [name for name in named if _usual_split(name) == "train"]
        if "train" in trains or len(trains) == 1:
            return {"train" if "train" in trains else trains[0]}
        if not named or (not trains and "" in there):
            return {""}
    wanted = [name for name in named if split and split in (name, _usual_split(name))]
    if split in wanted or len(wanted) == 1:
        return {split if split in wanted else wanted[0]}
    has = f"the splits {', '.join(named)}" if named else "no splits that its names tell"
    lacks = f"no split '{split}'" if split else "none called train"
    raise FormatError(f"{root}: has {has}, {lacks}: choose one of them (pairs.split, captions.split, --split)")


def read_split(
    path: Path,
    files: Iterable[tuple[str, Path]],
    split: str,
    read: Callable[[Path], Rows],
    count: Callable[[Path], int] | None = None,
) -> Rows:
    """Yield the rows of the `files` in `split`, and count the rows of others; each file is given as (split, file).

    In a folder, the rows' places include the file's name.

    Args:
        path: the file or folder of the source.
        count: function that returns a file's number of rows without reading them.

    Raises:
        FormatError: there is no such split, or a file can't be read.
    """
    files = list(files)
    taken, others = take_split(path, files, split)
    chosen = {name for name, file in files if name and name not in others}
    for name, rest in others.items():
        reason = f"of the split '{name}'" if name else "of no split"
        if chosen:
            reason += f": '{min(chosen)}' is taken"
        for file in rest:
            rows = count(file) if count else sum(isinstance(row, Row) or row.failed for row in read(file))
            yield LeftOut(reason, file.relative_to(path).as_posix(), rows, failed=False)
    for file in taken:
        place = file.relative_to(path).as_posix() if file != path else ""
        for row in read(file):
            where = ": ".join(part for part in (place, row.where) if part)
            if isinstance(row, LeftOut):
                yield replace(row, where=where)
            else:
                row.where = where
                yield row


def text_files(path: Path, endings: Collection[str]) -> list[tuple[str, Path]]:
    """Return the file at `path`, or the files with these `endings` in the folder `path`, as (split, file)."""
    if not path.is_dir():
        return [("", path)]
    files = (file for file in walk_files(path) if file.suffix.lower() in endings)
    return [(split_of(file.relative_to(path).parts), file) for file in files]


def is_split_folder(path: Path, endings: Collection[str], recognise: Callable[[Path], bool]) -> bool:
    """Return True if a folder's files with these `endings` have splits, and `recognise` accepts one of the first."""
    files = text_files(path, endings) if path.is_dir() else []
    return any(split for split, _ in files) and any(recognise(file) for _, file in islice(files, _FILES_TRIED))
