"""DrawBench: a table of prompts with their categories."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.reading import header, table, text


class DrawBench:
    title = "DrawBench"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix == ".csv" and header(path) >= {"Prompts", "Category"}

    def prompts(self, path: Path) -> Iterator[Prompt]:
        return (Prompt(text(row, "Prompts", path), text(row, "Category", path)) for row in table(path))
