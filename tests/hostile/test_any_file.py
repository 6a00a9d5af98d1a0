"""Any bytes, rows and columns under a format's name are read as records, or there is one line that says why not."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anything import BYTES, STEADY, TREES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agfsync import catalog
from agfsync.commands.inspect import inspect_path
from agfsync.errors import AgfsyncError, FormatError
from agfsync.files.images import BrokenImageError, decode_image
from agfsync.formats import LeftOut, NoPreference, PairSet, Preference, Prompt, PromptFile
from agfsync.formats.pairing import read_pair_images
from agfsync.records import one_line

pytestmark = pytest.mark.slow

FORMATS = sorted(catalog.CATALOG["formats"])
NAMES = [
    *("prompts.txt", "prompts.jsonl", "table.csv", "table.tsv", "list.json", "train.json"),
    *("test.json", "photo.json", "x_text_inputs.json", "x_question_answers.json", "rows.parquet"),
]
KEYS = [
    *("prompt", "Prompt", "Prompts", "Category", "Challenge", "caption", "text", "id"),
    *("question", "questions", "answer", "choices", "element", "element_type", "tag"),
    *("include", "item_id", "proposition_id", "category_broad", "tuple"),
    *("question_natural_language", "file_path", "human_preference", "image_path", "rank", "image"),
    *("prompt_id", "generations", "ranking", "img_better", "img_worse", "classification"),
    *("category", "flag", "jpg_0", "jpg_1", "label_0", "label_1", "has_label", "chosen"),
    *("rejected", "caption_key", "key"),
]
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=8), max_size=3)
SHAPES: tuple[tuple[str, ...], ...] = (
    ("prompt", "file_path", "human_preference"),
    ("prompt", "image_path", "rank"),
    ("prompt", "generations", "ranking"),
    ("prompt", "img_better", "img_worse"),
    ("image", "prompt_id", "prompt", "rank", "classification"),
    ("id", "caption", "question", "choices", "answer", "element_type", "element"),
    ("tag", "include", "prompt"),
    ("prompt", "questions", "category", "flag"),
)
"""Columns of real formats, filled with anything: what gets past the recognising."""
SHAPED = st.sampled_from(SHAPES).flatmap(
    lambda keys: st.lists(st.fixed_dictionaries({key: TREES | st.sampled_from(["x", 1]) for key in keys}), max_size=3)
)


def taken_in(path: Path) -> None:
    """Every format that recognises the file reads it, or says in one line why not; what it reads are right records."""
    for name in FORMATS:
        format_ = catalog.find("formats", name)()
        if not format_.recognises(path):
            continue
        for kind, act in ((PromptFile, "prompts"), (PairSet, "pairs")):
            if isinstance(format_, kind):
                try:
                    for each in getattr(format_, act)(path):
                        check(each)
                except FormatError as reason:
                    assert str(reason) and "\n" not in str(reason)
    try:
        inspect_path(path)
    except AgfsyncError as reason:
        assert "\n" not in str(reason)


def check(found: Prompt | Preference | NoPreference | LeftOut) -> None:
    if isinstance(found, LeftOut):
        assert found.reason and "\n" not in found.reason + found.where and found.count >= 0
        return
    if isinstance(found, Prompt):
        for text in (found.text, found.category, *(each for q in found.questions for each in (q.text, q.element))):
            assert isinstance(text, str) and text == one_line(text)
        assert found.text and found.category and all(q.answer in ("yes", "no") and q.text for q in found.questions)
        return
    assert found.category and found.category == one_line(found.category)
    if isinstance(found, Preference):
        assert found.prompt and found.prompt == one_line(found.prompt)
        try:
            assert all(decode_image(file) for file in read_pair_images(found))
        except BrokenImageError as reason:
            assert "\n" not in str(reason)


@settings(STEADY, max_examples=60)
@given(name=st.sampled_from(NAMES), data=BYTES)
@example(name="list.json", data=b"[" * 100_000)
@example(name="list.json", data=b'[{"id": ' + b"9" * 5000 + b"}]")
@example(name="prompts.jsonl", data=b'{"prompt": ' + b"[" * 100_000)
@example(name="prompts.jsonl", data=b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}")
@example(name="table.csv", data=b"prompt\n" + b"x" * 200_000)
@example(name="table.csv", data=b'prompt\n"')
@example(name="prompts.txt", data=b"\xff\xfea\0")
@example(name="rows.parquet", data=b"PAR1" + b"\0" * 20 + b"PAR1")
@example(name="photo.json", data=b'["\\ud800", "a\\u0000b"]')
def test_any_bytes_under_a_formats_name_are_read_or_told(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    taken_in(path)


@settings(STEADY, max_examples=100)
@given(name=st.sampled_from(NAMES[1:-1]), rows=ROWS | SHAPED)
@example(name="test.json", rows=[{"prompt": "a", "image_path": ["a\0b", "x" * 5000], "rank": [1, 2]}])
@example(name="train.json", rows=[{"image": {"bytes": "x"}, "prompt_id": [1], "prompt": "a", "rank": 1}])
@example(name="prompts.jsonl", rows=[{"prompt": "a", "questions": 5, "category": {"a": 1}}])
def test_any_rows_under_a_formats_name_are_read_or_told(name: str, rows: list[Any], tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("jsonl"):
        path.write_text("\n".join(map(json.dumps, rows)))
    elif name.endswith("json"):
        path.write_text(json.dumps(rows))
    else:
        names = list(dict.fromkeys(key for row in rows for key in row)) or ["prompt"]
        lines = [names, *([str(row.get(key, "")) for key in names] for row in rows)]
        text = "\n".join((",", "\t")[name.endswith("tsv")].join(line) for line in lines)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
    taken_in(path)


COLUMNS = st.one_of(
    st.lists(st.none() | st.text(max_size=9), min_size=2, max_size=2).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.none() | st.integers(-9, 9), min_size=2, max_size=2).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.none() | st.floats(), min_size=2, max_size=2).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.none() | st.binary(max_size=9), min_size=2, max_size=2).map(lambda v: pa.array(v, pa.binary())),
    st.lists(st.none() | st.lists(st.text(max_size=3), max_size=2), min_size=2, max_size=2).map(
        lambda v: pa.array(v, pa.list_(pa.string()))
    ),
    st.just(pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "../x"}])),
    st.just(pa.array([{"bytes": "text", "path": 3}, None])),
    st.just(pa.array([2**62, -(2**62)], pa.timestamp("ms"))),
    st.just(pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))),
)


@settings(STEADY, max_examples=60)
@given(
    columns=st.dictionaries(st.sampled_from(KEYS), COLUMNS, min_size=1, max_size=6), spoil=st.none() | st.integers(4)
)
def test_any_parquet_columns_are_read_or_told(columns: dict[str, pa.Array], spoil: int | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    if spoil is not None:
        data = bytearray(path.read_bytes())
        data[spoil % len(data)] ^= 0x55
        path.write_bytes(data)
    taken_in(path)


@settings(STEADY, max_examples=30)
@given(
    label=st.sampled_from(
        [
            ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label"),
            ("prompt", "chosen", "rejected", "category"),
            ("image", "prompt_id", "prompt", "classification", "rank"),
        ]
    ),
    columns=st.lists(COLUMNS, min_size=6, max_size=6),
)
def test_any_columns_of_a_pair_set_are_read_or_told(
    label: tuple[str, ...], columns: list[pa.Array], tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(dict(zip(label, columns, strict=False))), path)
    taken_in(path)
