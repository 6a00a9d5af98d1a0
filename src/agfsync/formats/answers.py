"""Questions on images with their true answers, for tests of judges: a table with a row for each question.

    image,question,answer,element_type
    1.png,Is there a dog?,yes,animal
    1.png,Is the dog brown?,no,color

A column `opposite` may have the opposite of each question. Image paths are relative to the file's folder.
"""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import AnsweredImage, AnsweredQuestion, LeftOut
from agfsync.formats.columns import ROWS_WITH_IMAGES, column_rows, has_columns
from agfsync.formats.pairing import parse_image
from agfsync.formats.paths import take_split
from agfsync.formats.reading import (
    Row,
    Rows,
    UnusableRow,
    get_category,
    group_rows,
    peek_row,
    read_header,
    read_json_lines,
    read_json_list,
    read_rows,
    read_table,
    require_text,
)
from agfsync.records import AnswerWord, one_line

_NEEDED = ("image", "question", "answer")
_COLUMNS = (*_NEEDED, "element_type", "opposite")
_READERS = {
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_list,
}
_ANSWERS: dict[str, AnswerWord] = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


class AnswerTable:
    """A table (CSV, TSV, JSON, JSON lines, Parquet) with the columns image, question and answer."""

    title = "a table of questions with their true answers"

    def recognises(self, path: Path) -> bool:
        """Return True for a table with these columns."""
        reader = _READERS.get(path.suffix.lower()) if path.is_file() else None
        if reader is None:
            return has_columns(path, _NEEDED)
        names = read_header(path) if reader is read_table else peek_row(reader(path)).keys()
        return names >= set(_NEEDED)

    def answers(self, path: Path, split: str = "") -> Iterator[AnsweredImage | LeftOut]:
        """Yield the images; consecutive rows with the same image belong together."""
        for found in group_rows(_read_table(path, split), lambda row: str(row.get("image"))):
            if isinstance(found, LeftOut):
                yield found
                continue
            questions = []
            for each in read_rows(found[1], lambda row: [_parse_question(row)]):
                if isinstance(each, LeftOut):
                    yield each
                else:
                    questions.append(each)
            first = found[1][0]
            images = read_rows([first], lambda row: [parse_image(row.get("image"), row.file.parent, path)])
            for image in images if questions else ():
                yield (image if isinstance(image, LeftOut) else AnsweredImage(image, tuple(questions), first.where))


def _read_table(path: Path, split: str) -> Rows:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        return column_rows(path, _COLUMNS, split, _NEEDED, ROWS_WITH_IMAGES)
    take_split(path, [("", path)], split)
    return reader(path)


def _parse_question(row: Row) -> AnsweredQuestion:
    answer = _ANSWERS.get(str(row.get("answer")).strip().casefold())
    if answer is None:
        raise UnusableRow("the answer is neither yes nor no")
    kind, opposite = get_category(row, "element_type"), one_line(str(row.get("opposite") or ""))
    return AnsweredQuestion(require_text(row, "question"), answer, kind, opposite)
