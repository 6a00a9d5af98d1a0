"""Folders of CSV files or JSON lines with a file a split. No format of its own."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from agfsync.formats import LeftOut
from agfsync.formats.reading import Row, Rows
from agfsync.formats.splits import split_of, take_split
from agfsync.formats.walking import walk_files

FILES_TRIED = 8
"""Files that are looked into to recognise a folder."""


def is_split_folder(path: Path, endings: Collection[str], is_ours: Callable[[Path], bool]) -> bool:
    """True if the files with these endings in a folder are of splits, and one of the first `is_ours`."""
    files = list(_files(path, endings)) if path.is_dir() else []
    return any(split for split, _ in files) and any(is_ours(file) for _, file in islice(files, FILES_TRIED))


def text_rows(path: Path, split: str, endings: Collection[str], read: Callable[[Path], Rows]) -> Rows:
    """Yield the rows of the file at `path`, or of those in the folder there that are of the split; count the others.

    Raises:
        FormatError: there is no such split, or a file can't be read.
    """
    if not path.is_dir():
        yield from read(path)
        return
    taken, others = take_split(path, _files(path, endings), split)
    for name, rest in others.items():
        for file in rest:
            count = sum(isinstance(row, Row) or row.failed for row in read(file))
            yield LeftOut(f"of the split '{name}'" if name else "of no split", _name(file, path), count, failed=False)
    for file in taken:
        for row in read(file):
            where = f"{_name(file, path)}: {row.where}"
            if isinstance(row, Row):
                row.where = where
                yield row
            else:
                yield replace(row, where=where)


def _files(path: Path, endings: Collection[str]) -> Iterator[tuple[str, Path]]:
    files = (file for file in walk_files(path) if file.suffix.lower() in endings)
    return ((split_of(file.relative_to(path).parts), file) for file in files)


def _name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix()
