import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.errors import FormatError
from agfsync.formats import reading


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read_item_by_item_however_the_chunks_fall(
    file: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(reading, "CHUNK", chunk)
    items = [{"a": "]},[", "b": [1, {"c": 'quoted " mark'}]}, {}, {"é": "\u2028"}]
    file.write_text(json.dumps(items, indent=indent), encoding="utf-8")
    assert list(reading.json_items(file, dict)) == items


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "isn't a JSON list"),
        ('{"a": 1}', "isn't a JSON list"),
        ('[{"a": 1}, {"b"', "item 2 isn't JSON, or the file is cut short"),
        ('[{"a": 1}', "item 2 isn't JSON, or the file is cut short"),
        ('[{"a": 1}, "b"]', "item 2 is a str, not a dict"),
    ],
)
def test_what_is_no_json_list_of_objects_is_told(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(FormatError, match=says):
        list(reading.json_items(file, dict))


def test_json_lines_skip_empty_lines_and_name_the_one_that_is_none(file: Path) -> None:
    file.write_text('{"a": 1}\n\n{"a": 2}\nnothing\n')
    lines = reading.json_lines(file)
    assert [next(lines), next(lines)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(FormatError, match="line 4 isn't JSON"):
        next(lines)


def test_a_table_may_start_with_a_byte_order_mark_and_quote_lines(file: Path) -> None:
    file.write_bytes('\ufeffprompt,category\r\n"a, ""b""\nc",d\r\n'.encode())
    assert reading.header(file) == {"prompt", "category"}
    assert list(reading.table(file)) == [{"prompt": 'a, "b"\nc', "category": "d"}]


@pytest.mark.parametrize("row", ["a", "a,b,c"])
def test_a_row_that_is_not_as_wide_as_the_header_is_told(file: Path, row: str) -> None:
    file.write_text(f"prompt,category\n{row}\n")
    with pytest.raises(FormatError, match="line 2 isn't as wide as the header"):
        list(reading.table(file))


@pytest.mark.parametrize(
    ("read", "data", "says"),
    [
        (reading.json_lines, b"\xff\xfe", "isn't UTF-8 text"),
        (reading.table, b'a,b\n"c,d\n', "is damaged: unexpected end of data"),
    ],
)
def test_bytes_that_are_no_text_are_told(file: Path, read: Callable[[Path], Any], data: bytes, says: str) -> None:
    file.write_bytes(data)
    with pytest.raises(FormatError, match=says):
        list(read(file))


def test_a_file_that_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="can't be read: No such file"):
        list(reading.json_lines(tmp_path / "nowhere"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FormatError, match=r"broken\.parquet: is damaged"):
        list(reading.parquet_rows(tmp_path, ["a"]))
    assert reading.parquet_columns(tmp_path) == set()


def test_parquet_is_read_over_files_and_only_the_columns_that_are_there(tmp_path: Path) -> None:
    for number in (1, 0):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"a": [number, number], "b": ["x", "y"]}), tmp_path / "data" / f"{number}.parquet")
    assert list(reading.parquet_rows(tmp_path, ["a", "none"], at_once=1)) == [{"a": a} for a in (0, 0, 1, 1)]
    assert reading.parquet_columns(tmp_path) == {"a", "b"}


def test_a_row_without_its_text_or_list_is_told_with_how_it_begins(file: Path) -> None:
    assert reading.text({"prompt": " a\n cat "}, "prompt", file) == "a cat"
    for value in (None, "", " ", 3):
        with pytest.raises(FormatError, match="a row has no text under 'prompt': id 7, prompt"):
            reading.text({"id": 7, "prompt": value}, "prompt", file)
    for value in (None, "ab", [1]):
        with pytest.raises(FormatError, match="no list of the right length under 'rank'"):
            reading.entries({"rank": value}, "rank", file, 2)
