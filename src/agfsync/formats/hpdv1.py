"""HPD, the first version: a JSON list of prompts with several pictures each, and the number of the preferred one.

Source: https://github.com/tgxs002/align_sd
"""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import NoPreference, PairItem, Preference
from agfsync.formats.hpdv2 import HPD_COLUMNS, list_hpd_files, read_hpd_files
from agfsync.formats.pairing import TOO_FEW_PICTURES
from agfsync.formats.paths import locate_picture
from agfsync.formats.reading import Row, UnusableRow, peek_row, read_json_list, require_list, require_text

_FILES = ("preference_train.json", "preference_test.json", "train.json", "test.json")
_PICTURES_FOLDER = "preference_images"


class HPDv1:
    """One of HPD's JSON files, or the folder with both."""

    title = "HPD (version 1)"

    def recognises(self, path: Path) -> bool:
        rows = (peek_row(read_json_list(file)) for file in list_hpd_files(path, _FILES))
        return any(row.keys() >= HPD_COLUMNS and isinstance(row["human_preference"], int) for row in rows)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the preferred picture against each other one; they lie as HPDv2's do, or in preference_images."""
        return read_hpd_files(path, _FILES, split, _read_pairs)


def _read_pairs(row: Row) -> Iterator[Preference | NoPreference]:
    names, best = require_list(row, "file_path"), row.get("human_preference")
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best < len(names):
        raise UnusableRow("the number under 'human_preference' is none of its pictures'")
    folder = row.file.parent
    pictures = [locate_picture(name, folder / row.file.stem, folder, folder / _PICTURES_FOLDER) for name in names]
    prompt = require_text(row, "prompt")
    if len(pictures) < 2:
        yield NoPreference(prompt, TOO_FEW_PICTURES, where=row.where)
    for number, picture in enumerate(pictures):
        if number != best:
            yield Preference(prompt, pictures[best], picture, where=row.where)
