"""MMRB2 (Multimodal RewardBench 2): text-to-image pairs with the choices of experts, for tests of judges.

t2i.json is {"pairs": [{"id", "prompt_content": [["text", ...]], "response_a", "response_b", "chosen": "A" or "B"}]}.
A response has "response_content": [["image", "images/NAME.jpg"]]; image paths are relative to the file's folder.

Source: https://github.com/facebookresearch/MMRB2 (arXiv:2512.16899), CC BY-NC 4.0: only read, never shipped.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agfsync.formats import LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.paths import locate_image, take_split
from agfsync.formats.reading import Row, UnusableRow, format_errors, get_category, open_text, read_rows, require_list

_FILE = "t2i.json"
_BEGINNING = re.compile(r'\s*\{\s*"pairs"\s*:\s*\[')
_TEXT, _IMAGE = "text", "image"


class MMRB2:
    """The file t2i.json, or its folder."""

    title = "MMRB2"

    def recognises(self, path: Path) -> bool:
        """Return True for a JSON object that begins with "pairs", or a folder with such a t2i.json."""
        file = _find_file(path)
        if not file.is_file() or file.suffix.lower() != ".json":
            return False
        with format_errors(file), file.open(encoding="utf-8", errors="replace") as opened:
            return _BEGINNING.match(opened.read(256)) is not None

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pairs, except those with images in the prompt, such as editing tasks."""
        take_split(path, [("", path)], split)
        yield from read_rows(_read_file(_find_file(path)), lambda row: [_read_pair(row)])


def _find_file(path: Path) -> Path:
    return path / _FILE if path.is_dir() else path


def _read_file(path: Path) -> Iterator[Row | LeftOut]:
    with format_errors(path), open_text(path) as file:
        items = json.load(file)["pairs"]
    for number, item in enumerate(items, 1):
        where = f"item {number}"
        yield Row(item, path, where) if isinstance(item, dict) else LeftOut("it is no object", where)


def _read_pair(row: Row) -> Preference | NoPreference:
    prompt = " ".join(_list_parts(row, "prompt_content", _TEXT)).strip()
    if not prompt or _list_parts(row, "prompt_content", _IMAGE):
        raise UnusableRow("the prompt isn't text alone: it is no pair of text-to-image models")
    category = get_category(row, "prompt_source")
    if row.get("chosen") not in ("A", "B"):
        return NoPreference(prompt, "no label", category, row.where)
    first, second = (_find_image(row, name) for name in ("response_a", "response_b"))
    winner, loser = (first, second) if row["chosen"] == "A" else (second, first)
    return Preference(prompt, winner, loser, category, row.where)


def _find_image(row: Row, name: str) -> Path:
    response = row.get(name)
    images = _list_parts(response if isinstance(response, dict) else {}, "response_content", _IMAGE)
    if len(images) != 1:
        raise UnusableRow(f"not one image under '{name}'")
    return locate_image(images[0], row.file.parent)


def _list_parts(row: dict[str, Any], name: str, kind: str) -> list[str]:
    """Return the values of one kind from a list of [kind, value]."""
    parts = [part for part in require_list(row, name) if isinstance(part, list) and len(part) == 2]
    return [str(value) for what, value in parts if what == kind]
