"""The HPSv2 benchmark: a JSON list of prompts for each style."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.paths import read_split
from agfsync.formats.reading import peek_row, read_json_list, read_rows, require_text

_STYLES = ("anime", "concept-art", "paintings", "photo")


class HPSv2:
    """The JSON file of a style, or a folder with such files."""

    title = "the HPSv2 benchmark"

    def recognises(self, path: Path) -> bool:
        """Return True for a JSON list of texts that is named after a style, or a folder with one."""
        # The rows of a list of plain texts have only this name.
        return any(peek_row(read_json_list(file, "text")).keys() == {"text"} for file in _style_files(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts of each style; the style is the category."""
        rows = read_split(
            path, (("", file) for file in _style_files(path)), split, lambda file: read_json_list(file, "text")
        )
        return read_rows(rows, lambda row: [Prompt(require_text(row, "text"), row.file.stem)])


def _style_files(path: Path) -> list[Path]:
    there = [path / f"{style}.json" for style in _STYLES] if path.is_dir() else [path]
    return [file for file in there if file.is_file() and file.stem in _STYLES and file.suffix.lower() == ".json"]
