import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, reading
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.reading import Row, UnusableRow


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read_item_by_item_however_the_chunks_fall(
    file: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(reading, "_CHUNK", chunk)
    items = [{"a": "]},[", "b": [1, {"c": 'quoted " mark'}]}, {}, {"é": "\u2028"}]
    file.write_text(json.dumps(items, indent=indent), encoding="utf-8")
    assert list(reading.read_json_items(file)) == items


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "isn't a JSON list"),
        ('{"a": 1}', "isn't a JSON list"),
        ('[{"a": 1}, {"b"', "item 2 isn't JSON, or the file is cut short"),
        ('[{"a": 1}', "item 2 isn't JSON, or the file is cut short"),
        ('[{"a": 1}]\n[{"a": 2}]', "goes on behind the end of its list"),
    ],
)
def test_what_is_no_json_list_is_reported(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(FormatError, match=says):
        list(reading.read_json_items(file))


def test_json_lines_skip_empty_lines_and_count_what_is_none(file: Path) -> None:
    file.write_text('{"a": 1}\n\n{"a": 2}\nnothing\n[1]\n"x"\n{"a": 3}')
    assert list(reading.read_json_lines(file)) == [
        {"a": 1},
        {"a": 2},
        LeftOut("it isn't JSON", "line 4"),
        LeftOut("it is no object of names and values", "line 5"),
        LeftOut("it is no object of names and values", "line 6"),
        {"a": 3},
    ]
    assert list(reading.read_json_lines(file, "a"))[4] == {"a": "x"}


def test_items_that_are_no_rows_are_counted(file: Path) -> None:
    file.write_text('[{"a": 1}, null, "x"]')
    found = list(reading.read_json_list(file, "a"))
    assert found == [{"a": 1}, LeftOut("it is no object of names and values", "item 2"), {"a": "x"}]
    assert isinstance(found[0], Row) and (found[0].where, found[0].file) == ("item 1", file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_read_by_its_mark_and_its_delimiter(file: Path, encoding: str, delimiter: str, end: str) -> None:
    lines = [["prompt", "category"], ["a “café”", "über"], ["two", ""]]
    file.write_bytes(end.join(delimiter.join(line) for line in lines).encode(encoding))
    assert list(reading.read_table(file)) == [
        {"prompt": "a “café”", "category": "über"},
        {"prompt": "two", "category": ""},
    ]
    assert reading.read_header(file) == {"prompt", "category"}


def test_excels_first_line_names_the_delimiter_and_is_no_header(file: Path) -> None:
    file.write_text("sep=;\nprompt;category\na, b;c\n")
    assert list(reading.read_table(file)) == [{"prompt": "a, b", "category": "c"}]


def test_commas_in_the_only_column_are_a_part_of_it(file: Path) -> None:
    file.write_text('prompt\na cat, sitting, red\n"a dog, too"\n')
    assert [row["prompt"] for row in reading.read_table(file) if isinstance(row, Row)] == [
        "a cat, sitting, red",
        "a dog, too",
    ]


def test_a_field_is_as_long_as_it_is(file: Path) -> None:
    file.write_text("prompt,category\n" + "x" * 200_000 + ",a\n")
    assert [len(row["prompt"]) for row in reading.read_table(file) if isinstance(row, Row)] == [200_000]


@pytest.mark.parametrize(
    ("text", "encoding", "likely"),
    [
        ("prompt\na cat in a café\n", "latin-1", "Windows-1252 or Latin-1"),
        ("prompt\na “cat”\n", "cp1252", "Windows-1252 or Latin-1"),
        ("кот сидит на столе", "cp1251", "GB18030, Shift-JIS or Windows-1251"),
        ("prompt\nein Café\n", "utf-16-le", "UTF-16 .little-endian. without a byte order mark"),
        ("prompt\na cat\n", "utf-16-be", "UTF-16 .big-endian. without a byte order mark"),
    ],
)
def test_another_encoding_is_named(file: Path, text: str, encoding: str, likely: str) -> None:
    file.write_bytes(text.encode(encoding))
    with pytest.raises(FormatError, match=f"(isn't UTF-8 text, but|is) likely .*{likely}.*: save it as UTF-8"):
        list(reading.read_table(file))


def test_a_table_may_start_with_a_byte_order_mark_and_quote_lines(file: Path) -> None:
    file.write_bytes('\ufeffprompt,category\r\n"a, ""b""\nc",d\r\n'.encode())
    assert reading.read_header(file) == {"prompt", "category"}
    assert list(reading.read_table(file)) == [{"prompt": 'a, "b"\nc', "category": "d"}]


@pytest.mark.parametrize("row", ["a", "a,b,c", '"a" b,c', '"a"b"c'])
def test_a_row_that_is_none_is_counted_and_the_file_goes_on(file: Path, row: str) -> None:
    file.write_text(f"prompt,category\n{row}\n\n , \nx,y\n")
    left, empty, found = reading.read_table(file)
    assert isinstance(left, LeftOut) and left.where == "line 2" and left.reason.startswith("it isn't ")
    assert empty == LeftOut("empty row", "line 4", failed=False) and found == {"prompt": "x", "category": "y"}


@pytest.mark.parametrize(
    ("read", "data", "says"),
    [
        (reading.read_json_lines, b"{}\xff\xfe", "isn't UTF-8 text"),
        (reading.read_table, b'a,b\nc,d\n"c,d\ne,f\n', "line 3: a quotation mark is opened and never closed"),
    ],
)
def test_what_makes_the_whole_file_unreadable_is_reported(
    file: Path, read: Callable[[Path], Any], data: bytes, says: str
) -> None:
    file.write_bytes(data)
    with pytest.raises(FormatError, match=says):
        list(read(file))


def test_a_file_that_is_missing_or_damaged_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="can't be read: No such file"):
        list(reading.read_json_lines(tmp_path / "nowhere"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FormatError, match=r"broken\.parquet: is damaged"):
        list(column_rows(tmp_path, ["a"]))
    assert column_names(tmp_path) == []


def test_a_row_without_its_text_or_list_is_unusable() -> None:
    assert reading.require_text({"prompt": " a\n cat "}, "prompt") == "a cat"
    for value in (None, "", " ", 3):
        with pytest.raises(UnusableRow, match="no text under 'prompt'"):
            reading.require_text({"id": 7, "prompt": value}, "prompt")
    for value in (None, "ab", [1]):
        with pytest.raises(UnusableRow, match="no list of the right length under 'rank'"):
            reading.require_list({"rank": value}, "rank", 2)
