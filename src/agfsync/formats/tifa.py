"""TIFA v1.0: its captions (text_inputs), its questions (question_answers), or a folder with both."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync.formats import Asked, Prompt
from agfsync.formats.asking import origin, question, sift
from agfsync.formats.reading import entries, first, json_items, text

INPUTS, ANSWERS = "*text_inputs.json", "*question_answers.json"


class Tifa:
    title = "TIFA"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return _only(path, INPUTS) is not None
        return path.suffix == ".json" and (first(json_items(path, dict)) or {}).keys() >= {"id", "caption"}

    def prompts(self, path: Path) -> Iterator[Prompt]:
        """By the id of a caption; its category is where TIFA has it from, such as coco or drawbench."""
        inputs, answers = (_only(path, INPUTS), _only(path, ANSWERS)) if path.is_dir() else (path, path)
        captions: dict[str, str] = {}
        asked: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for file in dict.fromkeys(file for file in (inputs, answers) if file):
            for row in json_items(file, dict):
                identifier = text(row, "id", file)
                captions.setdefault(identifier, text(row, "caption", file))
                if "question" in row:
                    asked[identifier].append(row | {"choices": entries(row, "choices", file)})
        for identifier, caption in captions.items():
            yield Prompt(caption, origin(identifier), *sift(_question(row) for row in asked[identifier]))


def _only(folder: Path, pattern: str) -> Path | None:
    """The one file in `folder` that is called so; None where there is none, or several to choose from."""
    found = list(folder.glob(pattern))
    return found[0] if len(found) == 1 else None


def _question(row: Mapping[str, Any]) -> Asked | str:
    return question(row["question"], row.get("answer"), row.get("element"), row.get("element_type"), row["choices"])
