"""GenEval's prompts, with what each of them tests as the category."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import Row, first_row, json_lines, label, read_rows, text


class GenEval:
    title = "GenEval"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix.lower() != ".jsonl":
            return False
        return first_row(json_lines(path)).keys() >= {"tag", "include", "prompt"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Without questions: what a prompt includes is for an object detector to find."""
        return read_rows(json_lines(path), _read)


def _read(row: Row) -> list[Prompt]:
    return [Prompt(text(row, "prompt"), label(row, "tag"))]
