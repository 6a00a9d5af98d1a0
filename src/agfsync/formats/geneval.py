"""GenEval's prompts, with what each of them tests as the category."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.reading import first, json_lines, text


class GenEval:
    title = "GenEval"

    def recognises(self, path: Path) -> bool:
        if not path.is_file() or path.suffix != ".jsonl":
            return False
        return (first(json_lines(path)) or {}).keys() >= {"tag", "include", "prompt"}

    def prompts(self, path: Path) -> Iterator[Prompt]:
        """Without questions: what a prompt includes is for an object detector to find."""
        return (Prompt(text(row, "prompt", path), text(row, "tag", path)) for row in json_lines(path))
