"""Turns rows into prompts with questions, by the names of their columns. It isn't a format."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from agfsync.formats import LeftOut, Prompt, SourceQuestion
from agfsync.formats.reading import Row, get_category, group_rows, require_text
from agfsync.records import YES_NO, ElementType, one_line

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "captions", "text")
"""Names of the prompt's column in any case, the most likely first."""
OTHER_COLUMNS = ("category", "question", "answer", "element", "element_type", "choices", "label", "flag", "questions")

_QUESTION_COLUMN = "caption_key"
"""A column that only a table of questions has; the text of such a table isn't a prompt."""
_ELEMENT_TYPES: Mapping[str, ElementType] = {name: name for name in get_args(ElementType)}
_MOST_WORDS = 3
"""Largest number of words of an answer without choices: a judge is asked for one word."""
_NUMBER = re.compile(r"[-_ ]?\d+$")


def find_column(names: Iterable[str], wanted: Iterable[str] = PROMPT_COLUMNS) -> str | None:
    """Return the first of `wanted` that is in the columns `names`, spelt as in `names`; None if there is none.

    >>> find_column(["id", "Caption"])
    'Caption'
    """
    spelt = {name.strip().casefold(): name for name in reversed(list(names)) if isinstance(name, str)}
    return None if _QUESTION_COLUMN in spelt else next((spelt[name] for name in wanted if name in spelt), None)


def parse_prompt(row: Row) -> tuple[str, str]:
    """Return a row's prompt and category.

    Raises:
        UnusableRow: the row has no prompt.
    """
    return require_text(row, find_column(row) or PROMPT_COLUMNS[0]), get_category(row, find_column(row, ("category",)))


def parse_prompts(rows: Iterable[Row | LeftOut]) -> Iterator[Prompt | LeftOut]:
    """Yield the prompts in `rows`; consecutive rows with questions on the same prompt are one prompt.

    A row may have one question (`question`, `answer`, `element`, `element_type`, `label`, and `choices`, a list or a
    text separated by bars) or a list of questions in the column `questions`.
    """
    for group in group_rows(rows, parse_prompt):
        if isinstance(group, LeftOut):
            yield group
            continue
        (prompt, category), same = group
        questions, left_out = collect_questions(each for row in same for each in _parse_row_questions(row))
        copies = 1 if questions or left_out else len(same)
        yield from (Prompt(prompt, category, questions, left_out) for _ in range(copies))


def parse_question(
    text: Any,
    answer: Any,
    element: Any = None,
    element_type: Any = None,
    choices: Iterable[Any] | None = None,
    label: Any = None,
) -> SourceQuestion | str:
    """Return the question in a file's fields, or the reason why it can't be asked.

    A type that isn't one of the thirteen becomes "other"; TIFA's "animal/human", for example, is ambiguous, and stays
    in the `label`. Yes and no are converted to lower case, other answers are kept as in the file.

    >>> parse_question("What is it?", "cat", choices=["dog", "cow"])
    'answer is none of its choices'
    """
    if not isinstance(text, str) or not one_line(text):
        return "empty"
    if not _plain(answer):
        return "no answer given"
    wanted, listed = _clean_answer(answer), tuple(dict.fromkeys(map(_clean_answer, choices or ())))
    if listed and wanted not in listed:
        return "answer is none of its choices"
    if not listed and len(wanted.split()) > _MOST_WORDS:
        return f"answer has more than {_MOST_WORDS} words"
    kind = _ELEMENT_TYPES.get(_plain(element_type), "other")
    named = one_line(str(label or ""))
    return SourceQuestion(one_line(text), wanted, one_line(str(element or "")), kind, (), listed, named)


def _clean_answer(answer: Any) -> str:
    return plain if (plain := _plain(answer)) in YES_NO else one_line(str(answer))


def collect_questions(found: Iterable[SourceQuestion | str]) -> tuple[tuple[SourceQuestion, ...], dict[str, int]]:
    """Return the distinct questions in `found`, and the count of each reason why others can't be asked.

    >>> collect_questions(["empty", "empty"])
    ((), {'empty': 2})
    """
    kept: dict[tuple[str, tuple[str, ...]], SourceQuestion] = {}
    left_out: Counter[str] = Counter()
    for each in found:
        if isinstance(each, str):
            left_out[each] += 1
        elif (asked := (_plain(each.text), each.choices)) in kept:
            left_out["repeated"] += 1
        else:
            kept[asked] = each
    return tuple(kept.values()), dict(left_out)


def parse_origin(identifier: str) -> str:
    """Return the data set from which a benchmark took a prompt, by the prompt's id.

    >>> parse_origin("coco_301091")
    'coco'
    """
    return _NUMBER.sub("", identifier) or identifier


def _parse_row_questions(row: Mapping[str, Any]) -> Iterator[SourceQuestion | str]:
    row = _plain_names(row)
    if row.get("question"):
        yield _parse_object(row)
    listed = row.get("questions") or []
    for each in listed if isinstance(listed, list) else [listed]:
        yield _parse_object(_plain_names(each)) if isinstance(each, Mapping) else parse_question(each, None)


def _parse_object(row: Mapping[str, Any]) -> SourceQuestion | str:
    if str(row.get("flag", 1)) in ("0", "False"):
        return "called invalid by its writer"
    choices, asked = row.get("choices"), row.get("question") or row.get("text")
    listed = choices.split("|") if isinstance(choices, str) else choices if isinstance(choices, list) else None
    named = row.get("label")
    return parse_question(asked, row.get("answer"), row.get("element"), row.get("element_type"), listed, named)


def _plain_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` with stripped, lower-case column names, as `find_column` compares them."""
    return {name.strip().casefold(): value for name, value in row.items() if isinstance(name, str)}


def _plain(value: Any) -> str:
    return "" if value is None else str(value).strip().rstrip(".").casefold()
