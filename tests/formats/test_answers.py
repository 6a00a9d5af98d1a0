import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.formats import AnsweredImage, AnsweredQuestion, AnswerSet, LeftOut
from agfsync.formats.answers import AnswerTable
from agfsync.formats.sources import holds_answers, recognise_format

ROWS = [
    {"image": "1.png", "question": "Is there a dog?", "answer": "Yes", "element_type": "animal", "opposite": ""},
    {"image": "1.png", "question": "Is it brown?", "answer": "no", "element_type": "color", "opposite": "Is it grey?"},
    {"image": "2.png", "question": "Is there a cat?", "answer": "perhaps", "element_type": "", "opposite": ""},
    {"image": "3.png", "question": "Is there a cat?", "answer": "true", "element_type": "", "opposite": ""},
]


def write(folder: Path, ending: str) -> Path:
    file = folder / f"answers.{ending}"
    match ending:
        case "csv":
            lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
            file.write_text("\n".join(lines))
        case "jsonl":
            file.write_text("\n".join(map(json.dumps, ROWS)))
        case "json":
            file.write_text(json.dumps(ROWS))
        case _:
            pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_rows_of_an_image_belong_together(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path, ending)
    assert holds_answers(file) and isinstance(recognise_format(file, AnswerSet), AnswerTable)
    one, left, three = AnswerTable().answers(file)
    assert one == AnsweredImage(
        tmp_path / "1.png",
        (
            AnsweredQuestion("Is there a dog?", "yes", "animal"),
            AnsweredQuestion("Is it brown?", "no", "color", "Is it grey?"),
        ),
    )
    assert isinstance(left, LeftOut) and left.reason == "the answer is neither yes nor no"
    assert three == AnsweredImage(tmp_path / "3.png", (AnsweredQuestion("Is there a cat?", "yes", "uncategorised"),))


def test_other_tables_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt,question\na,b\n")
    assert not any(holds_answers(path) for path in (tmp_path, tmp_path / "prompts.csv", tmp_path / "none.csv"))
