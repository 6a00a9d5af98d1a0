"""Parquet shards, and the scorers that chose a pair set: in every format, and never claimed if unknown."""

import dataclasses
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync import catalog
from agfsync.formats import Dataset, Selector, WrittenPair, writing
from agfsync.formats.writing import ParquetShards, name_selectors, read_selectors

SCHEMA = pa.schema([("number", pa.int64())])


def test_rows_leave_memory_group_by_group_and_files_are_continued_in_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_GROUP_BYTES", 20)
    monkeypatch.setattr(writing, "_SHARD_BYTES", 40)
    with ParquetShards(tmp_path / "data", SCHEMA) as shards:
        for number in range(11):
            shards.add({"number": number}, 10)
    files = sorted((tmp_path / "data").iterdir())
    assert [file.name for file in files] == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    assert [pq.ParquetFile(file).num_row_groups for file in files] == [2, 2, 2]
    assert pq.read_table(tmp_path / "data")["number"].to_pylist() == list(range(11))


@pytest.mark.parametrize("name", ["pick-a-pic", "binarized", "huggingface"])
def test_memory_holds_a_few_images_however_many_there_are(tmp_path: Path, dataset: Dataset, name: str) -> None:
    (first, *_) = dataset.pairs
    some = (dataclasses.replace(first, winner=os.urandom(1 << 20), loser=os.urandom(1 << 20)) for _ in range(60))
    tracemalloc.start()
    try:
        catalog.find("formats", name)().write(dataclasses.replace(dataset, pairs=some), tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 120 MiB were written; a row group is 16 MB.
    assert peak < 40 << 20


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    with ParquetShards(tmp_path, SCHEMA):
        pass
    assert pq.read_table(tmp_path).schema.names == ["number"]


def test_after_a_failure_nothing_more_is_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ParquetShards(tmp_path, SCHEMA) as shards:
        shards.add({"number": 1})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


VQA = Selector("vqa", 0.35, "0123456789abcdef", "embedded:vqa")
CLIP = Selector("clip", -0.5, "fedcba9876543210", "embedded:clip")
PAIR = WrittenPair("p", "a cat", "things", b"winner", b"loser", "w", "l", 60.0, 40.0, "model", "model", 1)


def written(folder: Path, name: str, selectors: list[Selector] | None) -> Path:
    made = Dataset("set", "2025-01-01T00:00:00+00:00", {}, [], [], [PAIR], selectors)
    folder.mkdir()
    catalog.find("formats", name)().write(made, folder)
    return folder


@pytest.mark.parametrize("name", ["pick-a-pic", "binarized", "huggingface"])
@pytest.mark.parametrize("selectors", [[VQA, CLIP], [], None])
def test_what_chose_the_pairs_is_read_as_it_was_written(
    tmp_path: Path, name: str, selectors: list[Selector] | None
) -> None:
    assert read_selectors(written(tmp_path / "set", name, selectors)) == selectors


@pytest.mark.parametrize("name", ["pick-a-pic", "binarized", "huggingface"])
def test_the_rows_are_the_same_with_and_without(tmp_path: Path, name: str) -> None:
    sets = [written(tmp_path / each, name, selectors) for each, selectors in (("a", [VQA]), ("b", None))]
    one, other = (list(catalog.find("formats", name)().pairs(each)) for each in sets)
    assert one == other and len(one) == 1


def test_sets_laid_together_are_of_all_that_chose_any(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    written(tmp_path / "all" / "one", "binarized", [VQA])
    written(tmp_path / "all" / "two", "binarized", [CLIP])
    assert read_selectors(tmp_path / "all") == [VQA, CLIP]
    written(tmp_path / "all" / "unsaid", "binarized", None)
    assert read_selectors(tmp_path / "all") is None


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '[{"name": "vqa"}]', "null"])
def test_metadata_of_another_shape_says_nothing(tmp_path: Path, text: str) -> None:
    schema = pa.schema([("chosen", pa.binary())]).with_metadata({"agfsync.selected_by": text})
    pq.write_table(pa.table({"chosen": [b""]}, schema=schema), tmp_path / "a.parquet")
    assert read_selectors(tmp_path / "a.parquet") is None


def test_what_is_no_parquet_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert read_selectors(tmp_path / "a.json") is None and read_selectors(tmp_path) is None
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert read_selectors(tmp_path) is None


def test_other_metadata_is_kept() -> None:
    schema = pa.schema([("chosen", pa.binary())]).with_metadata({"huggingface": "x"})
    assert name_selectors(schema, [VQA]).metadata[b"huggingface"] == b"x"
    assert name_selectors(schema, None) == schema


def test_a_linked_set_counts_and_a_hidden_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    one = written(tmp_path / "all" / "one", "binarized", [VQA])
    file = next(one.rglob("*.parquet"))
    file.with_name(f"._{file.name}").write_bytes(b"not a table")
    assert read_selectors(tmp_path / "all") == [VQA]
    (tmp_path / "all" / "linked").symlink_to(written(tmp_path / "unsaid", "binarized", None))
    assert read_selectors(tmp_path / "all") is None
