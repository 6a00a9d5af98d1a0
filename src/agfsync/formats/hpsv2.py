"""The HPSv2 benchmark: a list of prompts a style."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import Row, first, json_items, json_rows, read_rows, text
from agfsync.formats.splits import take_split

STYLES = ("anime", "concept-art", "paintings", "photo")


class HPSv2:
    title = "the HPSv2 benchmark"

    def recognises(self, path: Path) -> bool:
        return any(first(json_items(file, str)) is not None for file in _files(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Of each style that is there; the style is the category."""
        taken, _ = take_split(path, (("", file) for file in _files(path)), split)
        for file in taken:
            yield from read_rows(json_rows(file, "text"), _read)


def _read(row: Row) -> list[Prompt]:
    return [Prompt(text(row, "text"), row.file.stem)]


def _files(path: Path) -> list[Path]:
    there = [path / f"{style}.json" for style in STYLES] if path.is_dir() else [path]
    return [file for file in there if file.is_file() and file.stem in STYLES and file.suffix.lower() == ".json"]
