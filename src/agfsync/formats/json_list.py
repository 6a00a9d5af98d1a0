"""A JSON list of prompts: objects with a prompt, its category and questions, or texts."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt
from agfsync.formats.reading import peek_row, read_json_list
from agfsync.formats.rows import PROMPT_COLUMNS, find_column, parse_prompts


class JsonList:
    """A JSON file that holds a list of prompts."""

    title = "a JSON list of prompts"

    def recognises(self, path: Path) -> bool:
        # Some programs write a list under the ending of JSON lines.
        if not path.is_file() or path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
            return False
        return find_column(peek_row(read_json_list(path, PROMPT_COLUMNS[0]))) is not None

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        return parse_prompts(read_json_list(path, PROMPT_COLUMNS[0]))
