"""HPD, both versions: JSON lists of prompts with images and human preferences.

Version 2 has train.json with two images and a preference for each prompt, and test.json with several ranked
images. Version 1 has several images for each prompt and the index of the preferred one.

Sources: https://github.com/tgxs002/HPSv2, https://github.com/tgxs002/align_sd
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync.formats import UNCATEGORISED, NoPreference, PairItem, Preference
from agfsync.formats.pairing import TOO_FEW_IMAGES, is_number, pair_by_rank
from agfsync.formats.paths import locate_image, read_split, split_of
from agfsync.formats.reading import (
    Row,
    UnusableRow,
    peek_row,
    read_json_list,
    read_rows,
    require_list,
    require_text,
)

_COLUMNS = {"prompt", "file_path", "human_preference"}
_RANKED_COLUMNS = {"prompt", "image_path", "rank"}
_FILES = ("train.json", "test.json")
_FILES_1 = ("preference_train.json", "preference_test.json", *_FILES)
_IMAGES_FOLDER_1 = "preference_images"


class HPDv2:
    """One of HPDv2's JSON files, or the folder with both."""

    title = "HPDv2"

    def recognises(self, path: Path) -> bool:
        """Return True for a file, or a folder with a file, of this version."""
        return any(
            (row.keys() >= _COLUMNS and isinstance(row["human_preference"], list)) or row.keys() >= _RANKED_COLUMNS
            for row in _peek_files(path, _FILES)
        )

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pairs; images are next to the file, or in a folder with the file's name."""
        return _read_files(path, _FILES, split, _read_pairs)


class HPDv1:
    """One of HPD's JSON files, or the folder with both."""

    title = "HPD (version 1)"

    def recognises(self, path: Path) -> bool:
        """Return True for a file, or a folder with a file, of this version."""
        rows = _peek_files(path, _FILES_1)
        return any(row.keys() >= _COLUMNS and isinstance(row["human_preference"], int) for row in rows)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield pairs of the preferred and each other image; images are where HPDv2's are, or in preference_images."""
        return _read_files(path, _FILES_1, split, _read_pairs_1)


def _list_files(path: Path, names: tuple[str, ...]) -> list[Path]:
    there = [path / name for name in names] if path.is_dir() else [path]
    return [file for file in there if file.is_file() and file.suffix.lower() == ".json"]


def _peek_files(path: Path, names: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    return (peek_row(read_json_list(file)) for file in _list_files(path, names))


def _read_files(
    path: Path, names: tuple[str, ...], split: str, read: Callable[[Row], Iterator[Preference | NoPreference]]
) -> Iterator[PairItem]:
    files = ((split_of([file.name]) if path.is_dir() else "", file) for file in _list_files(path, names))
    return read_rows(read_split(path, files, split, read_json_list), read)


def _read_pairs(row: Row) -> Iterator[Preference | NoPreference]:
    if "file_path" in row:
        names = require_list(row, "file_path")
        marks = require_list(row, "human_preference", len(names))
        # The preferred image (1) ranks before the other (0).
        ranks = [-mark if is_number(mark) else None for mark in marks]
    else:
        names = require_list(row, "image_path")
        ranks = require_list(row, "rank", len(names))
    folders = (row.file.parent / row.file.stem, row.file.parent)
    images = [locate_image(name, *folders) for name in names]
    return pair_by_rank(require_text(row, "prompt"), images, ranks, UNCATEGORISED, row.where)


def _read_pairs_1(row: Row) -> Iterator[Preference | NoPreference]:
    names, best = require_list(row, "file_path"), row.get("human_preference")
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best < len(names):
        raise UnusableRow("the number under 'human_preference' is none of its images'")
    folder = row.file.parent
    images = [locate_image(name, folder / row.file.stem, folder, folder / _IMAGES_FOLDER_1) for name in names]
    prompt = require_text(row, "prompt")
    if len(images) < 2:
        yield NoPreference(prompt, TOO_FEW_IMAGES, where=row.where)
    for number, image in enumerate(images):
        if number != best:
            yield Preference(prompt, images[best], image, where=row.where)
