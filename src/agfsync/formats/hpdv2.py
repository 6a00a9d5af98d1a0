"""HPDv2: train.json with two pictures a prompt and who was preferred, test.json with several and their ranks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync.formats import UNCATEGORISED, NoPreference, Preference
from agfsync.formats.pairing import by_rank, inside, is_number
from agfsync.formats.reading import entries, first, json_items, text

FILES = ("train.json", "test.json")
TRAIN, TEST = {"prompt", "file_path", "human_preference"}, {"prompt", "image_path", "rank"}


class HPDv2:
    title = "HPDv2"

    def recognises(self, path: Path) -> bool:
        return any(_is_ours(first(json_items(file, dict)) or {}) for file in _files(path))

    def pairs(self, path: Path) -> Iterator[Preference | NoPreference]:
        """Pictures lie beside the file, or in the folder beside it that is called like it."""
        for file in _files(path):
            for row in json_items(file, dict):
                yield from _pairs(row, file)


def _files(path: Path) -> list[Path]:
    there = [path / name for name in FILES] if path.is_dir() else [path]
    return [file for file in there if file.is_file() and file.suffix == ".json"]


def _is_ours(row: Mapping[str, Any]) -> bool:
    return row.keys() >= TRAIN or row.keys() >= TEST


def _pairs(row: Mapping[str, Any], file: Path) -> Iterator[Preference | NoPreference]:
    """A preferred picture (1) ranks before one that isn't (0)."""
    train = "file_path" in row
    names = entries(row, "file_path" if train else "image_path", file)
    given = entries(row, "human_preference" if train else "rank", file, len(names))
    ranks = [-mark if is_number(mark) else None for mark in given] if train else given
    yield from by_rank(text(row, "prompt", file), [_picture(file, name) for name in names], ranks, UNCATEGORISED)


def _picture(file: Path, name: Any) -> Path:
    within = inside(file.parent / file.stem, name)
    return within if within.is_file() else inside(file.parent, name)
