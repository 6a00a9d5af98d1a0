"""PartiPrompts: a table with a category and a challenge for each prompt."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import Row, header, label, read_rows, table, text


class PartiPrompts:
    title = "PartiPrompts"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix.lower() != ".tsv":
            return False
        return header(path) >= {"Prompt", "Category", "Challenge"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return read_rows(table(path), _read)


def _read(row: Row) -> list[Prompt]:
    return [Prompt(text(row, "Prompt"), label(row, "Category"))]
