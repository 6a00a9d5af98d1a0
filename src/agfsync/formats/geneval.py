"""GenEval: prompts in JSON lines, each with the skill that it tests."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import get_category, peek_row, read_json_lines, read_rows, require_text


class GenEval:
    """GenEval's `evaluation_metadata.jsonl`."""

    title = "GenEval"

    def recognises(self, path: Path) -> bool:
        """Return True for JSON lines with the names tag, include and prompt."""
        is_lines = path.is_file() and path.suffix.lower() == ".jsonl"
        return is_lines and peek_row(read_json_lines(path)).keys() >= {"tag", "include", "prompt"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts without questions: an object detector checks what an image must include."""
        return read_rows(
            read_json_lines(path), lambda row: [Prompt(require_text(row, "prompt"), get_category(row, "tag"))]
        )
