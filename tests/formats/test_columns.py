"""Parquet and Arrow, in whatever folders they lie."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from anything import STEADY
from hypothesis import given, settings
from hypothesis import strategies as st

from agfsync.errors import FormatError
from agfsync.formats import LeftOut
from agfsync.formats.columns import column_names, column_rows, has_columns, table_files


def put(path: Path, *values: Any, name: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(values)}), path)
    return path


def read(path: Path, split: str = "", **settings: Any) -> tuple[list[Any], list[LeftOut]]:
    found = list(column_rows(path, ["a"], split, **settings))
    return [row["a"] for row in found if not isinstance(row, LeftOut)], [r for r in found if isinstance(r, LeftOut)]


def test_files_are_read_in_order_of_name_and_only_the_columns_that_are_there(tmp_path: Path) -> None:
    for number in (1, 0):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"a": [number, number], "b": ["x", "y"]}), tmp_path / "data" / f"{number}.parquet")
    assert list(column_rows(tmp_path, ["a", "none"], at_once=1)) == [{"a": a} for a in (0, 0, 1, 1)]
    assert column_names(tmp_path) == [{"a", "b"}] * 2 and has_columns(tmp_path, {"a"})


def test_of_several_splits_train_is_read_and_the_rows_of_the_others_are_counted(tmp_path: Path) -> None:
    for name, values in (
        ("train-00000-of-00002", (1, 2)),
        ("train-00001-of-00002", (3,)),
        ("test-00000-of-00001", (4, 5)),
    ):
        put(tmp_path / "data" / f"{name}.parquet", *values)
    put(tmp_path / "notes.parquet", 6)
    test = LeftOut("of the split 'test': 'train' is taken", "data/test-00000-of-00001.parquet", 2, failed=False)
    notes = LeftOut("of no split: 'train' is taken", "notes.parquet", 1, failed=False)
    assert read(tmp_path) == ([1, 2, 3], [test, notes])
    assert read(tmp_path, "test")[0] == [4, 5] and sorted(read(tmp_path, "all")[0]) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(FormatError, match="has the splits test, train, no split 'dev'"):
        read(tmp_path, "dev")
    assert read(tmp_path / "data" / "test-00000-of-00001.parquet") == ([4, 5], [])


def test_hidden_files_and_those_of_another_table_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "._a.parquet").write_bytes(b"x")
    put(tmp_path / ".cache" / "a.parquet", 9)
    put(tmp_path / "a.parquet", 7, 8, name="other")
    put(tmp_path / "b.PARQUET", 1)
    assert has_columns(tmp_path, {"a"})
    assert read(tmp_path, needed={"a"}) == (
        [1],
        [LeftOut("of another table", "a.parquet", 2, failed=False)],
    )


def test_what_datasets_saved_to_disk_is_read_as_it_lists_it(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"a": list(range(25))})
    made.save_to_disk(str(tmp_path / "one"), num_shards=2)
    (tmp_path / "one" / "cache-0123.arrow").write_bytes((tmp_path / "one" / "data-00000-of-00002.arrow").read_bytes())
    (tmp_path / "one" / "left-over.arrow").write_bytes(b"x")
    assert read(tmp_path / "one", at_once=3) == (list(range(25)), [])
    several = datasets.DatasetDict(train=made.select(range(3)), test=made.select(range(2)))
    several.save_to_disk(str(tmp_path / "several"))
    values, left = read(tmp_path / "several")
    assert values == [0, 1, 2] and [(each.count, each.where) for each in left] == [
        (2, "test/data-00000-of-00001.arrow")
    ]
    assert read(tmp_path / "several", "test")[0] == [0, 1]
    datasets.DatasetDict(pairs=made.select(range(3))).save_to_disk(str(tmp_path / "named"))
    assert read(tmp_path / "named")[0] == read(tmp_path / "named", "pairs")[0] == [0, 1, 2]


def test_arrow_files_and_feather_are_read_like_streams(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x"] * 3})
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "a.feather", at_once=2)[0] == read(tmp_path / "b.arrow")[0] == [1, 2, 3]
    (tmp_path / "b.arrow").write_bytes(b"ARROW1 and no more")
    with pytest.raises(FormatError, match=r"b\.arrow: is damaged"):
        read(tmp_path / "b.arrow")


@pytest.mark.parametrize("state", [b"", b"[]", b'{"_data_files": 3}', b"\xff", b'{"_data_files": [{}]}'])
def test_a_state_that_is_none_is_no_list(tmp_path: Path, state: bytes) -> None:
    (tmp_path / "state.json").write_bytes(state)
    file = put(tmp_path / "a.parquet", 1)
    assert list(table_files(tmp_path)) == [file]


def test_rows_know_where_they_stand(tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.parquet", 1, 2)
    assert [getattr(row, "where", "") for row in column_rows(tmp_path, ["a"])] == [
        "x/a.parquet: row 1",
        "x/a.parquet: row 2",
    ]
    (row, _) = column_rows(tmp_path / "x" / "a.parquet", ["a"])
    assert getattr(row, "where", "") == "row 1" and json.dumps(row) == '{"a": 1}'


PLACES = st.tuples(
    st.sampled_from(["", "data", "train", "test", "data/validation", ".cache", "x/y"]),
    st.sampled_from(
        ["train-00000-of-00002", "test-00000-of-00001", "validation_unique-00000-of-00001", "a", "._a", "0000"]
    ),
    st.sampled_from([".parquet", ".PARQUET", ".pq", ".arrow"]),
)


@pytest.mark.slow
@settings(STEADY, max_examples=100)
@given(tree=st.dictionaries(PLACES, st.tuples(st.integers(0, 3), st.booleans()), max_size=8))
def test_of_any_folder_every_row_is_read_once_or_counted(
    tree: dict[tuple[str, str, str], tuple[int, bool]], tmp_path: Path
) -> None:
    root, far = tmp_path / "root", tmp_path / "far"
    for folder in (root, far):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    wanted: list[int] = []
    for number, ((place, name, ending), (rows, link)) in enumerate(sorted(tree.items())):
        path = root / place / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        target = far / str(number) if link else path
        table = pa.table({"a": pa.array([10 * number + row for row in range(rows)], pa.int64())})
        if ending == ".arrow":
            with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        else:
            pq.write_table(table, target)
        if link:
            path.symlink_to(target)
        if ".cache" not in place and not name.startswith("."):
            wanted += table["a"].to_pylist()
    try:
        values, left = read(root)
    except FormatError as reason:
        assert "choose one of them" in str(reason)
        values, left = read(root, "all")
        assert left == []
    assert len(set(values)) == len(values) and set(values) <= set(wanted)
    assert len(values) + sum(each.count for each in left) == len(wanted)
