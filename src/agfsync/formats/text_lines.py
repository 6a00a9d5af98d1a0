"""Plain text: a prompt in each line."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.reading import format_errors, open_text
from agfsync.records import one_line


class TextLines:
    """A text file of prompts."""

    title = "plain text, a prompt a line"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() == ".txt"

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt]:
        with format_errors(path), open_text(path) as file:
            yield from (Prompt(prompt) for line in file if (prompt := one_line(line)))
