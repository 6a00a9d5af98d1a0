"""PartiPrompts: a table with a category and a challenge for each prompt."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.reading import header, table, text


class PartiPrompts:
    title = "PartiPrompts"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix != ".tsv":
            return False
        return header(path, "\t") >= {"Prompt", "Category", "Challenge"}

    def prompts(self, path: Path) -> Iterator[Prompt]:
        return (Prompt(text(row, "Prompt", path), text(row, "Category", path)) for row in table(path, "\t"))
