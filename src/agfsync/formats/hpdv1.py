"""HPD, the first version: a JSON list of prompts with several pictures each, and the number of the preferred one.

Source: https://github.com/tgxs002/align_sd
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync.formats import NoPreference, PairItem, Preference
from agfsync.formats.hpdv2 import TRAIN, list_files, read_files
from agfsync.formats.pairing import FEWER
from agfsync.formats.reading import Row, UnusableRow, entries, first_row, json_rows, text
from agfsync.formats.walking import locate

HPDV1_FILES = ("preference_train.json", "preference_test.json", "train.json", "test.json")
PICTURES_FOLDER = "preference_images"


class HPDv1:
    title = "HPD (version 1)"

    def recognises(self, path: Path) -> bool:
        return any(_is_ours(first_row(json_rows(file))) for file in list_files(path, HPDV1_FILES))

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the preferred picture against each of the others; they lie as HPDv2's do, or in preference_images."""
        return read_files(path, HPDV1_FILES, split, _pairs)


def _is_ours(row: Mapping[str, Any]) -> bool:
    return row.keys() >= TRAIN and isinstance(row["human_preference"], int)


def _pairs(row: Row) -> Iterator[Preference | NoPreference]:
    names, best = entries(row, "file_path"), row.get("human_preference")
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best < len(names):
        raise UnusableRow("the number under 'human_preference' is none of its pictures'")
    folder = row.file.parent
    pictures = [locate(name, folder / row.file.stem, folder, folder / PICTURES_FOLDER) for name in names]
    prompt = text(row, "prompt")
    if len(pictures) < 2:
        yield NoPreference(prompt, FEWER, where=row.where)
    for number, picture in enumerate(pictures):
        if number != best:
            yield Preference(prompt, pictures[best], picture, where=row.where)
