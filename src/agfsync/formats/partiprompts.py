"""PartiPrompts: a table with a category and a challenge for each prompt."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import get_category, read_header, read_rows, read_table, require_text


class PartiPrompts:
    """The TSV file of PartiPrompts."""

    title = "PartiPrompts"

    def recognises(self, path: Path) -> bool:
        """Return True for a TSV with the columns Prompt, Category and Challenge."""
        is_table = path.is_file() and path.suffix.lower() == ".tsv"
        return is_table and read_header(path) >= {"Prompt", "Category", "Challenge"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts with their categories."""
        return read_rows(
            read_table(path), lambda row: [Prompt(require_text(row, "Prompt"), get_category(row, "Category"))]
        )
