import dataclasses
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync import catalog
from agfsync.formats import Dataset, writing
from agfsync.formats.writing import Shards

SCHEMA = pa.schema([("number", pa.int64())])


def test_rows_leave_memory_group_by_group_and_files_are_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GROUP_BYTES", 20)
    monkeypatch.setattr(writing, "SHARD_BYTES", 40)
    with Shards(tmp_path / "data", SCHEMA) as shards:
        for number in range(11):
            shards.add({"number": number}, 10)
    files = sorted((tmp_path / "data").iterdir())
    assert [file.name for file in files] == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    assert [pq.ParquetFile(file).num_row_groups for file in files] == [2, 2, 2]
    assert pq.read_table(tmp_path / "data")["number"].to_pylist() == list(range(11))


@pytest.mark.parametrize("name", ["pick-a-pic", "binarized", "huggingface"])
def test_memory_holds_a_few_pictures_however_many_there_are(tmp_path: Path, dataset: Dataset, name: str) -> None:
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
    with Shards(tmp_path, SCHEMA):
        pass
    assert pq.read_table(tmp_path).schema.names == ["number"]


def test_after_a_failure_nothing_more_is_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Shards(tmp_path, SCHEMA) as shards:
        shards.add({"number": 1})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
