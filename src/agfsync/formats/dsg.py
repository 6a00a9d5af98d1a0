"""DSG-1k and DPG-Bench: prompts, each split into propositions that are asked as yes/no questions.

DPG-Bench (arXiv:2403.05135) has its propositions in a table with the same columns, `dpg_bench.csv`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from agfsync.formats import UNCATEGORISED, LeftOut, Prompt, SourceQuestion
from agfsync.formats.reading import group_rows, read_header, read_table, require_text
from agfsync.formats.rows import collect_questions, parse_origin, parse_question
from agfsync.records import ElementType, one_line

_COLUMNS = {"item_id", "text", "proposition_id", "category_broad", "tuple", "question_natural_language"}
_DETAILED_TYPES: Mapping[str, ElementType] = {
    "whole": "object",
    "part": "object",
    "color": "color",
    "colour": "color",
    "material": "material",
    "shape": "shape",
    "count": "counting",
    "spatial": "spatial",
    "action": "activity",
}
"""Detailed categories -> element types; they take precedence over broad categories."""
_BROAD_TYPES: Mapping[str, ElementType] = {"entity": "object", "attribute": "attribute"}
_ELEMENT = re.compile(r"\(([^,)]*)")


class DSG:
    """The CSV file of DSG-1k or DPG-Bench."""

    title = "DSG-1k or DPG-Bench"

    def recognises(self, path: Path) -> bool:
        """Return True for a CSV with the columns that both have."""
        return path.is_file() and path.suffix.lower() == ".csv" and read_header(path) >= _COLUMNS

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts; the category is the data set of a prompt's origin, if its id has the name.

        Each proposition is a question. The questions of the propositions that it depends on are its parents. Its label
        is the beginning of its tuple, such as "attribute - color". The rows of a prompt must be consecutive, as in the
        published files.
        """
        for group in group_rows(
            read_table(path), lambda row: (require_text(row, "item_id"), require_text(row, "text"))
        ):
            if isinstance(group, LeftOut):
                yield group
            else:
                (identifier, prompt), rows = group
                texts = {row["proposition_id"].strip(): one_line(row["question_natural_language"]) for row in rows}
                found = (_parse_proposition(row, texts) for row in rows)
                category = UNCATEGORISED if identifier.isdecimal() else parse_origin(identifier)
                yield Prompt(prompt, category, *collect_questions(found))


def _parse_proposition(row: Mapping[str, str], texts: Mapping[str, str]) -> SourceQuestion | str:
    """Return a proposition as a question with the answer yes, since the prompt states it."""
    element = _ELEMENT.search(row["tuple"])
    detail, broad = row.get("category_detailed", "").strip().casefold(), row["category_broad"].strip().casefold()
    kind = _DETAILED_TYPES.get(detail) or _BROAD_TYPES.get(broad, "other")
    label = row["tuple"].partition("(")[0].strip()
    named = element[1] if element else ""
    question = parse_question(row["question_natural_language"], "yes", named, kind, label=label)
    if isinstance(question, str):
        return question
    numbers = [number.strip() for number in row.get("dependency", "").split(",")]  # 0: no dependency
    return replace(question, parents=tuple(texts[number] for number in numbers if number in texts))
