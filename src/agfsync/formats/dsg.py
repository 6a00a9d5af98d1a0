"""DSG-1k: prompts, each broken into propositions that are asked as yes/no questions."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from agfsync.formats import Asked, LeftOut, Prompt
from agfsync.formats.asking import origin, question, sift
from agfsync.formats.reading import group_rows, header, table, text
from agfsync.records import ElementType

COLUMNS = {"item_id", "text", "proposition_id", "category_broad", "tuple", "question_natural_language"}
TYPES: Mapping[str, ElementType] = {
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
"""By the category in detail; what it doesn't tell, the broad one does."""
BROAD: Mapping[str, ElementType] = {"entity": "object", "attribute": "attribute"}
ELEMENT = re.compile(r"\(([^,)]*)")


class DSG:
    title = "DSG-1k"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() == ".csv" and header(path) >= COLUMNS

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """A proposition that depends on another is a question like any; the category is where DSG has the prompt from.

        Rows of a prompt lie together, as they do in the published file.
        """
        for group in group_rows(table(path), lambda row: (text(row, "item_id"), text(row, "text"))):
            if isinstance(group, LeftOut):
                yield group
            else:
                (identifier, prompt), rows = group
                yield Prompt(prompt, origin(identifier), *sift(_question(row) for row in rows))


def _question(row: Mapping[str, str]) -> Asked | str:
    """A proposition is what the prompt states, so the answer is yes."""
    found = ELEMENT.search(row["tuple"])
    detail, broad = row.get("category_detailed", "").strip().casefold(), row["category_broad"].strip().casefold()
    kind = TYPES.get(detail) or BROAD.get(broad, "other")
    return question(row["question_natural_language"], "yes", found[1] if found else "", kind)
