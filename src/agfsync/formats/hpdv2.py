"""HPDv2: train.json with two pictures a prompt and who was preferred, test.json with several and their ranks."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync.formats import UNCATEGORISED, LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.pairing import by_rank, is_number
from agfsync.formats.reading import Row, entries, first_row, json_rows, read_rows, text
from agfsync.formats.splits import split_of, take_split
from agfsync.formats.walking import locate

HPDV2_FILES = ("train.json", "test.json")
TRAIN, TEST = {"prompt", "file_path", "human_preference"}, {"prompt", "image_path", "rank"}


class HPDv2:
    title = "HPDv2"

    def recognises(self, path: Path) -> bool:
        return any(_is_ours(first_row(json_rows(file))) for file in list_files(path, HPDV2_FILES))

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pairs; pictures lie beside the file, or in the folder beside it that is called like it."""
        return read_files(path, HPDV2_FILES, split, _pairs)


def list_files(path: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the JSON file at `path`, or those of `names` that are in the folder there."""
    there = [path / name for name in names] if path.is_dir() else [path]
    return [file for file in there if file.is_file() and file.suffix.lower() == ".json"]


def read_files(
    path: Path, names: tuple[str, ...], split: str, read: Callable[[Row], Iterator[Preference | NoPreference]]
) -> Iterator[PairItem]:
    """Yield what `read` makes of the rows of those files that are of the split."""
    files = list_files(path, names)
    taken, others = take_split(path, [(split_of([file.name]) if path.is_dir() else "", file) for file in files], split)
    for name, rest in others.items():
        for file in rest:
            count = sum(1 for _ in json_rows(file))
            yield LeftOut(f"of the split '{name}': '{split_of([taken[0].name])}' is taken", file.name, count, False)
    for file in taken:
        yield from read_rows(json_rows(file), read)


def _is_ours(row: Mapping[str, Any]) -> bool:
    """True for a row of HPDv2: version 1 has the same names, and says who was preferred by a number."""
    return (row.keys() >= TRAIN and isinstance(row["human_preference"], list)) or row.keys() >= TEST


def _pairs(row: Row) -> Iterator[Preference | NoPreference]:
    """A preferred picture (1) ranks before one that isn't (0)."""
    train = "file_path" in row
    names = entries(row, "file_path" if train else "image_path")
    given = entries(row, "human_preference" if train else "rank", len(names))
    ranks = [-mark if is_number(mark) else None for mark in given] if train else given
    folders = (row.file.parent / row.file.stem, row.file.parent)
    pictures = [locate(name, *folders) for name in names]
    yield from by_rank(text(row, "prompt"), pictures, ranks, UNCATEGORISED, row.where)
