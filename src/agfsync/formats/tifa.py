"""TIFA v1.0: the file of captions (text_inputs), that of questions (question_answers), or a folder with both."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, SourceQuestion
from agfsync.formats.paths import is_hidden, take_split
from agfsync.formats.reading import Row, peek_row, read_json_list, read_rows, require_list, require_text
from agfsync.formats.rows import collect_questions, parse_origin, parse_question

_INPUTS, _ANSWERS = "*text_inputs.json", "*question_answers.json"


class Tifa:
    """One of TIFA's JSON files, or the folder with both."""

    title = "TIFA"

    def recognises(self, path: Path) -> bool:
        """Return True for a JSON list of objects with an id and a caption, or a folder with text_inputs."""
        if path.is_dir():
            return _find_one(path, _INPUTS) is not None
        return path.suffix.lower() == ".json" and peek_row(read_json_list(path)).keys() >= {"id", "caption"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the captions; the category is the data set of a caption's origin, such as coco or drawbench."""
        take_split(path, [("", path)], split)
        files = [_find_one(path, _INPUTS), _find_one(path, _ANSWERS)] if path.is_dir() else [path]
        captions: dict[str, str] = {}
        questions: dict[str, list[SourceQuestion | str]] = defaultdict(list)

        def collect(row: Row) -> list[Prompt]:
            identifier, caption = require_text(row, "id"), require_text(row, "caption")
            if "question" in row:
                element, kind, choices = row.get("element"), row.get("element_type"), require_list(row, "choices")
                asked = parse_question(row["question"], row.get("answer"), element, kind, choices, kind)
                questions[identifier].append(asked)
            captions.setdefault(identifier, caption)
            return []

        for file in files:
            if file is not None:
                yield from read_rows(read_json_list(file), collect)
        for identifier, caption in captions.items():
            yield Prompt(caption, parse_origin(identifier), *collect_questions(questions[identifier]))


def _find_one(folder: Path, pattern: str) -> Path | None:
    """Return the only file in `folder` that matches `pattern`; None if there is none, or several."""
    found = [file for file in folder.glob(pattern) if not is_hidden(file.name)]
    return found[0] if len(found) == 1 else None
