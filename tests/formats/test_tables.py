"""The plain tables: text, JSON lines, CSV, Parquet."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.formats import Prompt
from agfsync.formats.csv_table import CsvTable
from agfsync.formats.json_lines import JsonLines
from agfsync.formats.parquet_table import ParquetTable
from agfsync.formats.text_lines import TextLines
from agfsync.records import Caption, Question

WANTED = [Prompt("a cat", "animals"), Prompt("two, dogs", "animals"), Prompt("bread", "food")]


def test_plain_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\r\n\n  two dogs \na cat\n")
    assert TextLines().recognises(file) and not TextLines().recognises(tmp_path)
    assert list(TextLines().prompts(file)) == [Prompt("a cat"), Prompt("two dogs"), Prompt("a cat")]


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": p.text, "category": p.category}) for p in WANTED))
    assert JsonLines().recognises(file)
    assert list(JsonLines().prompts(file)) == WANTED
    (tmp_path / "other.jsonl").write_text('{"loss": 1.0}\n')
    assert not JsonLines().recognises(tmp_path / "other.jsonl")


def test_comma_and_tab_separated_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('caption,category\na cat,animals\n"two, dogs",animals\nbread,food\n')
    (tmp_path / "a.tsv").write_text("caption\tcategory\na cat\tanimals\ntwo, dogs\tanimals\nbread\tfood\n")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    for name in ("a.csv", "a.tsv"):
        assert CsvTable().recognises(tmp_path / name)
        assert list(CsvTable().prompts(tmp_path / name)) == WANTED
    assert not CsvTable().recognises(tmp_path / "b.csv")


def test_parquet_reads_a_runs_own_captions_and_takes_no_questions_for_prompts(tmp_path: Path) -> None:
    captions = [Caption(str(i), p.text, p.category, "train").row() for i, p in enumerate(WANTED)]
    pq.write_table(pa.Table.from_pylist(captions, schema=Caption.schema), tmp_path / "captions.parquet")
    assert ParquetTable().recognises(tmp_path / "captions.parquet")
    assert list(ParquetTable().prompts(tmp_path)) == WANTED
    pq.write_table(pa.Table.from_pylist([], schema=Question.schema), tmp_path / "a-questions.parquet")
    assert not ParquetTable().recognises(tmp_path / "a-questions.parquet")
