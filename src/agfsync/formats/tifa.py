"""TIFA v1.0: its captions (text_inputs), its questions (question_answers), or a folder with both."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync.formats import Asked, LeftOut, Prompt
from agfsync.formats.asking import origin, question, sift
from agfsync.formats.reading import Row, entries, first_row, json_rows, read_rows, text
from agfsync.formats.splits import take_split
from agfsync.formats.walking import is_hidden

INPUTS, ANSWERS = "*text_inputs.json", "*question_answers.json"


class Tifa:
    title = "TIFA"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return _only(path, INPUTS) is not None
        return path.suffix.lower() == ".json" and first_row(json_rows(path)).keys() >= {"id", "caption"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """By the id of a caption; its category is where TIFA has it from, such as coco or drawbench."""
        take_split(path, [("", path)], split)
        inputs, answers = (_only(path, INPUTS), _only(path, ANSWERS)) if path.is_dir() else (path, path)
        captions: dict[str, str] = {}
        asked: dict[str, list[Mapping[str, Any]]] = defaultdict(list)

        def enter(row: Row) -> list[Prompt]:
            identifier, caption = text(row, "id"), text(row, "caption")
            question_ = row | {"choices": entries(row, "choices")} if "question" in row else None
            captions.setdefault(identifier, caption)
            if question_ is not None:
                asked[identifier].append(question_)
            return []

        for file in dict.fromkeys(file for file in (inputs, answers) if file):
            yield from read_rows(json_rows(file), enter)
        for identifier, caption in captions.items():
            yield Prompt(caption, origin(identifier), *sift(_question(row) for row in asked[identifier]))


def _only(folder: Path, pattern: str) -> Path | None:
    """The one file in `folder` that is called so; None where there is none, or several to choose from."""
    found = [file for file in folder.glob(pattern) if not is_hidden(file.name)]
    return found[0] if len(found) == 1 else None


def _question(row: Mapping[str, Any]) -> Asked | str:
    return question(row["question"], row.get("answer"), row.get("element"), row.get("element_type"), row["choices"])
