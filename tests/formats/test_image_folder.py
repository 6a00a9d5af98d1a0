import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.formats import LeftOut, Prompt, PromptFile
from agfsync.formats.image_folder import ImageFolder
from agfsync.formats.sources import recognise_format

ROWS = [
    {"file_name": "a.png", "text": "a cat"},
    {"file_name": "b.png", "text": None},
    {"file_name": "c.png", "text": "b"},
]


def write(path: Path, rows: list[dict[str, str | None]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("\n".join(["file_name,text", *(f"{row['file_name']},{row['text'] or ''}" for row in rows)]))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet", "train/metadata.jsonl"])
def test_each_rows_text_is_a_prompt(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    assert isinstance(recognise_format(tmp_path, PromptFile), ImageFolder)
    left, *found = sorted(ImageFolder().prompts(tmp_path), key=lambda each: isinstance(each, Prompt))
    assert isinstance(left, LeftOut) and left.reason == "no text under 'text'" and left.where.endswith(("2", "3"))
    assert found == [Prompt("a cat"), Prompt("b")]


def test_of_several_splits_train_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "train" / "metadata.jsonl", ROWS[:1])
    write(tmp_path / "test" / "metadata.jsonl", ROWS)
    found = list(ImageFolder().prompts(tmp_path))
    assert found == [
        LeftOut("of the split 'test': 'train' is taken", "test/metadata.jsonl", 3, failed=False),
        Prompt("a cat"),
    ]
    assert list(ImageFolder().prompts(tmp_path, "test"))[1:2] == [Prompt("a cat")]


def test_a_table_that_names_no_files_is_none(tmp_path: Path) -> None:
    write(tmp_path / "metadata.jsonl", [{"text": "a cat"}])
    assert not ImageFolder().recognises(tmp_path) and not ImageFolder().recognises(tmp_path / "metadata.jsonl")
