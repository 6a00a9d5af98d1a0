"""GenEval 2 (arXiv:2512.16853): prompts in JSON lines with questions, some of which ask for a number."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, SourceQuestion
from agfsync.formats.reading import Row, get_category, peek_row, read_json_lines, read_rows, require_list, require_text
from agfsync.formats.rows import collect_questions, parse_question
from agfsync.records import ElementType

_TYPES: Mapping[str, ElementType] = {
    "object": "object",
    "attribute": "attribute",
    "count": "counting",
    "position": "spatial",
    "verb": "activity",
}


class GenEval2:
    """GenEval 2's `geneval2_data.jsonl`."""

    title = "GenEval 2"

    def recognises(self, path: Path) -> bool:
        """Return True for JSON lines with the names prompt, vqa_list and skills."""
        is_lines = path.is_file() and path.suffix.lower() == ".jsonl"
        return is_lines and peek_row(read_json_lines(path)).keys() >= {"prompt", "vqa_list", "skills"}

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts; the category is the number of atoms, a question's label is its skill."""
        return read_rows(read_json_lines(path), _parse_row)


def _parse_row(row: Row) -> list[Prompt]:
    asked = require_list(row, "vqa_list")
    skills = require_list(row, "skills", len(asked))
    found = (_parse_atom(pair, str(skill)) for pair, skill in zip(asked, skills, strict=True))
    category = f"{get_category(row, 'atom_count')} atoms"
    return [Prompt(require_text(row, "prompt"), category, *collect_questions(found))]


def _parse_atom(pair: object, skill: str) -> SourceQuestion | str:
    if not isinstance(pair, list) or len(pair) != 2:
        return "not a question with its answer"
    return parse_question(pair[0], pair[1], element_type=_TYPES.get(skill), label=skill)
