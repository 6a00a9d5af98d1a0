"""Tests of the plain files: text, JSON lines, JSON lists, CSV, Parquet."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.formats import LeftOut, Prompt, PromptFile
from agfsync.formats.sources import read_prompts, recognise_format
from agfsync.formats.tables import CsvTable, JsonLines, JsonList, ParquetTable, TextLines
from agfsync.records import Caption, Question

WANTED = [Prompt("a cat", "animals"), Prompt("two, dogs", "animals"), Prompt("bread", "food")]


def test_plain_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\r\n\n  two dogs \na cat\n")
    assert TextLines().recognises(file) and not TextLines().recognises(tmp_path)
    assert list(TextLines().prompts(file)) == [Prompt("a cat"), Prompt("two dogs"), Prompt("a cat")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["A.TXT", "a.CSV", "a.Tsv", "A.JSONL", "a.JSON"])
def test_endings_may_be_upper_case_and_the_encoding_is_that_of_the_mark(
    tmp_path: Path, encoding: str, name: str
) -> None:
    texts = {
        ".txt": "a cat\nein Bär\n",
        ".csv": "prompt\na cat\nein Bär\n",
        ".tsv": "prompt\tcategory\na cat\t\nein Bär\t\n",
        ".jsonl": '{"prompt": "a cat"}\n{"prompt": "ein Bär"}\n',
        ".json": '["a cat", "ein Bär"]',
    }
    (tmp_path / name).write_text(texts[Path(name).suffix.lower()], encoding=encoding)
    found = list(read_prompts(tmp_path / name))
    assert found == [Prompt("a cat"), Prompt("ein Bär")]


def test_semicolons_blank_rows_and_rows_of_another_width(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("prompt;category\na, b;animals\n;\n;animals\nc;d;e\n\ntwo;\n")
    found = list(read_prompts(file))
    assert [each for each in found if isinstance(each, Prompt)] == [Prompt("a, b", "animals"), Prompt("two")]
    assert [each for each in found if isinstance(each, LeftOut)] == [
        LeftOut("empty row", "line 3", failed=False),
        LeftOut("no text under 'prompt'", "line 4"),
        LeftOut("it isn't as wide as the header", "line 5"),
    ]


def test_texts_may_be_lines_of_json_and_lines_may_be_called_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"a cat"\n"two dogs"\n')
    (tmp_path / "b.json").write_text('{"prompt": "a cat"}\n{"prompt": "two dogs"}\nnothing\n')
    wanted = [Prompt("a cat"), Prompt("two dogs")]
    assert list(JsonLines().prompts(tmp_path / "a.jsonl")) == wanted
    assert isinstance(recognise_format(tmp_path / "b.json", PromptFile), JsonLines)
    assert [each for each in read_prompts(tmp_path / "b.json") if isinstance(each, Prompt)] == wanted
    (tmp_path / "c.json").write_text('{"prompt": "a cat"}')
    assert not JsonLines().recognises(tmp_path / "c.json")


def test_a_null_in_parquet_is_counted_with_its_row_and_the_index_is_no_category(tmp_path: Path) -> None:
    columns = {"Prompt": ["a cat", None, "two dogs"], "": [1, 2, 3], "__index_level_0__": [7, 8, 9]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = list(read_prompts(tmp_path / "a.parquet"))
    assert found == [LeftOut("no text under 'Prompt'", "row 2"), Prompt("a cat"), Prompt("two dogs")]


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


@pytest.mark.parametrize("name", ["train.csv", "train-00000-of-00001.jsonl", "train/a.tsv"])
def test_a_folder_with_a_file_a_split_is_read_like_any_data_set(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        file = tmp_path / name.replace("train", split)
        file.parent.mkdir(exist_ok=True)
        texts = [f"{split} 1", f"{split} 2", ""]
        if file.suffix == ".jsonl":
            file.write_text("\n".join(json.dumps({"prompt": each}) for each in texts))
        else:
            file.write_text("\n".join(["category\tprompt", *(f"x\t{each}" for each in texts)]))
    recognise_format(tmp_path, PromptFile)
    other, failed, *found = sorted(read_prompts(tmp_path), key=lambda each: isinstance(each, Prompt))
    assert isinstance(other, LeftOut) and other.reason == "of the split 'test': 'train' is taken"
    assert (other.count, other.failed) == (3, False)
    assert isinstance(failed, LeftOut) and failed.where.startswith(f"{name}: line ")
    assert [each.text for each in found if isinstance(each, Prompt)] == ["train 1", "train 2"]
    assert "test 1" in [each.text for each in read_prompts(tmp_path, "test") if isinstance(each, Prompt)]


def test_a_folder_whose_files_are_of_no_split_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\na cat\n")
    assert not CsvTable().recognises(tmp_path)


def put(path: Path, items: Any) -> Path:
    path.write_text(json.dumps(items))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.jsonl"])
@pytest.mark.parametrize("items", [["a cat", "a dog"], [{"prompt": "a cat"}, {"prompt": "a dog"}]])
def test_texts_and_objects_are_prompts(tmp_path: Path, name: str, items: list[Any]) -> None:
    file = put(tmp_path / name, items)
    assert isinstance(recognise_format(file, PromptFile), JsonList)
    assert list(JsonList().prompts(file)) == [Prompt("a cat"), Prompt("a dog")]


@pytest.mark.parametrize("column", ["prompt", "text", "caption", "Caption"])
def test_objects_have_categories_and_questions_like_any_row(tmp_path: Path, column: str) -> None:
    row = {column: "a cat", "category": "animals", "questions": [{"question": "Is it?", "answer": "yes"}]}
    (found,) = JsonList().prompts(put(tmp_path / "a.json", [row]))
    assert isinstance(found, Prompt) and (found.text, found.category, len(found.questions)) == ("a cat", "animals", 1)


def test_items_that_are_no_prompt_are_counted(tmp_path: Path) -> None:
    found = list(JsonList().prompts(put(tmp_path / "a.json", [None, "a cat", "", 3, {"prompt": " "}, {"id": 1}])))
    assert found == [
        LeftOut("it is no object of names and values", "item 1"),
        LeftOut("no text under 'prompt'", "item 3"),
        LeftOut("it is no object of names and values", "item 4"),
        LeftOut("no text under 'prompt'", "item 5"),
        LeftOut("no text under 'prompt'", "item 6"),
        Prompt("a cat"),
    ]


@pytest.mark.parametrize("items", [[1, 2], [], {"prompt": "a cat"}, [["a cat"]], [{"loss": 1.0}]])
def test_what_holds_no_prompts_is_none(tmp_path: Path, items: Any) -> None:
    assert not JsonList().recognises(put(tmp_path / "a.json", items))
