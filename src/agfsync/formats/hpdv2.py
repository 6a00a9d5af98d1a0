"""HPDv2: train.json with two pictures and a preference for each prompt, test.json with several ranked pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path

from agfsync.formats import UNCATEGORISED, NoPreference, PairItem, Preference
from agfsync.formats.pairing import is_number, pair_by_rank
from agfsync.formats.paths import locate_picture, read_split, split_of
from agfsync.formats.reading import Row, peek_row, read_json_list, read_rows, require_list, require_text

HPD_COLUMNS = {"prompt", "file_path", "human_preference"}
_RANKED_COLUMNS = {"prompt", "image_path", "rank"}
_FILES = ("train.json", "test.json")


class HPDv2:
    """One of HPDv2's JSON files, or the folder with both."""

    title = "HPDv2"

    def recognises(self, path: Path) -> bool:
        rows = (peek_row(read_json_list(file)) for file in list_hpd_files(path, _FILES))
        # Version 1 has the same columns, with the number of the preferred picture.
        return any(
            (row.keys() >= HPD_COLUMNS and isinstance(row["human_preference"], list)) or row.keys() >= _RANKED_COLUMNS
            for row in rows
        )

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pairs; pictures lie next to the file, or in a folder with the file's name."""
        return read_hpd_files(path, _FILES, split, _read_pairs)


def list_hpd_files(path: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the JSON file at `path`, or those of `names` in the folder there."""
    there = [path / name for name in names] if path.is_dir() else [path]
    return [file for file in there if file.is_file() and file.suffix.lower() == ".json"]


def read_hpd_files(
    path: Path, names: tuple[str, ...], split: str, read: Callable[[Row], Iterator[Preference | NoPreference]]
) -> Iterator[PairItem]:
    """Yield the results of `read` for each row of the files in `split`."""
    files = ((split_of([file.name]) if path.is_dir() else "", file) for file in list_hpd_files(path, names))
    return read_rows(read_split(path, files, split, read_json_list), read)


def _read_pairs(row: Row) -> Iterator[Preference | NoPreference]:
    if "file_path" in row:
        names = require_list(row, "file_path")
        marks = require_list(row, "human_preference", len(names))
        # The preferred picture (1) ranks before the other (0).
        ranks = [-mark if is_number(mark) else None for mark in marks]
    else:
        names = require_list(row, "image_path")
        ranks = require_list(row, "rank", len(names))
    folders = (row.file.parent / row.file.stem, row.file.parent)
    pictures = [locate_picture(name, *folders) for name in names]
    return pair_by_rank(require_text(row, "prompt"), pictures, ranks, UNCATEGORISED, row.where)
