"""How rows of any table make prompts, by the names of its columns. No format of its own."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agfsync.formats import Asked, LeftOut, Prompt
from agfsync.formats.asking import question, sift
from agfsync.formats.reading import Row, group_rows, label, text

TEXTS = ("prompt", "prompts", "caption", "captions", "text")
"""Columns that hold the prompt, the first that is there; in whatever case."""
OTHERS = ("category", "question", "answer", "element", "element_type", "flag", "questions")
OF_QUESTIONS = "caption_key"
"""A column that only a table of questions has: its text is no prompt."""


def column(names: Iterable[str], wanted: Iterable[str] = TEXTS) -> str | None:
    """Return the first of `wanted` among the columns `names`, as it is spelt there; None where there is none."""
    spelt = {name.strip().casefold(): name for name in reversed(list(names)) if isinstance(name, str)}
    return None if OF_QUESTIONS in spelt else next((spelt[name] for name in wanted if name in spelt), None)


def prompts(rows: Iterable[Row | LeftOut]) -> Iterator[Prompt | LeftOut]:
    """Yield the prompts in `rows`; neighbouring rows with questions on one prompt are that prompt.

    A row may hold one question (`question`, `answer`, `element`, `element_type`) or a list of such under `questions`.
    """
    for group in group_rows(rows, _prompt):
        if isinstance(group, LeftOut):
            yield group
            continue
        (prompt, category), same = group
        questions, left_out = sift(each for row in same for each in _questions(row))
        copies = 1 if questions or left_out else len(same)
        yield from (Prompt(prompt, category, questions, left_out) for _ in range(copies))


def _prompt(row: Row) -> tuple[str, str]:
    return text(row, column(row) or TEXTS[0]), label(row, column(row, ("category",)))


def _questions(row: Mapping[str, Any]) -> Iterator[Asked | str]:
    row = _plain_names(row)
    if row.get("question"):
        yield _question(row)
    listed = row.get("questions") or []
    for each in listed if isinstance(listed, list) else [listed]:
        yield _question(each) if isinstance(each, Mapping) else question(each, None)


def _plain_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` with its columns' names in lower case, as a prompt's column is found too."""
    return {name.strip().casefold(): value for name, value in row.items() if isinstance(name, str)}


def _question(row: Mapping[str, Any]) -> Asked | str:
    row = _plain_names(row)
    if str(row.get("flag", 1)) in ("0", "False"):
        return "called invalid by its writer"
    asked = row.get("question") or row.get("text")
    return question(asked, row.get("answer"), row.get("element"), row.get("element_type"))
