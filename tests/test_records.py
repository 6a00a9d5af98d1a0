import subprocess
import sys
from dataclasses import fields

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agfsync.records import (
    Answer,
    Candidate,
    Caption,
    Comparison,
    Pair,
    Question,
    Record,
    Score,
    add_huggingface_metadata,
    derive_seed,
    digest,
    digest_lists,
    make_question_key,
)

RECORDS = [
    Caption("k", "a red star", "Counting", "held-out"),
    Question("k", "c", "Is there a star?", "yes", "star", "object"),
    Question("k", "c", "What is it?", "star", "star", "object", ("Is it?",), ("star", "sun"), "thing"),
    Candidate("k", "c", 3, 2**62, "base", b"\x89PNG"),
    Score("k", "c", "vqa", 87.5, None, (Answer("q", "no", 0.125), Answer("r", "star", 0.5, 0.25))),
    Score("k", "c", "vqa", None, "no questions"),
    Pair("k", "c", "w", "l", 1.5, 0.25, 1.25),
    Comparison("k", "held-out", "c", "Counting", "oracle", "", 20.0, 60.0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_from_its_table_as_it_was(record: Record) -> None:
    table = pa.Table.from_pylist([record.row()], schema=record.schema)
    (row,) = table.to_pylist()
    assert type(record).of(row) == record
    assert type(record).of(row | {"a later column": 1}) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_schema_has_the_records_fields_in_order(record: Record) -> None:
    assert record.schema.names == [field.name for field in fields(record)]


def test_a_digest_tells_its_parts_apart_and_is_the_same_in_every_process() -> None:
    assert digest("a", "bc") != digest("ab", "c") and digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    program = "from agfsync.records import digest, derive_seed; print(digest('x', 1.5), derive_seed(7, 'x'))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == [digest("x", 1.5), str(derive_seed(7, "x"))]


@given(st.text(), st.lists(st.lists(st.text(), max_size=3), max_size=3))
def test_a_digest_of_streams_is_that_of_the_lists(name: str, lists: list[list[str]]) -> None:
    assert digest_lists(name, *map(iter, lists)) == digest(name, *lists)


def test_seeds_are_in_the_range_that_torch_takes() -> None:
    seeds = {derive_seed(n) for n in range(1000)}
    assert len(seeds) == 1000 and min(seeds) >= 0 and max(seeds) < 2**63


def test_only_a_table_of_images_says_how_to_read_them() -> None:
    assert add_huggingface_metadata(Caption.schema).metadata is None
    assert b'"image": {"_type": "Image"}' in add_huggingface_metadata(Candidate.schema).metadata[b"huggingface"]


def test_another_expected_answer_makes_another_question() -> None:
    assert make_question_key("c", "Is it red?", "yes") == make_question_key("c", "Is it red?", "yes")
    assert make_question_key("c", "Is it red?", "yes") != make_question_key("c", "Is it red?", "no")
    assert make_question_key("c", "Is it red?", "yes") == make_question_key("c", "Is it red?", "yes", ("no", "yes"))
    assert make_question_key("c", "What?", "a") != make_question_key("c", "What?", "a", ("a", "b"))


def test_tables_of_the_version_before_can_be_read() -> None:
    question = Question("k", "c", "Is there a star?", "yes", "star", "object", ("Is it?",)).row()
    for name in ("choices", "label"):
        del question[name]
    assert Question.of(question) == Question("k", "c", "Is there a star?", "yes", "star", "object", ("Is it?",))
    score = Score("k", "c", "vqa", 100.0, None, (Answer("q", "yes", 0.75),)).row()
    (answer,) = score["answers"]
    del answer["p_expected"]
    assert Score.of(score).answers == (Answer("q", "yes", 0.75),)


def test_the_probability_of_the_right_answer() -> None:
    asked = [("yes", ()), ("no", ()), ("no", ("no", "yes")), ("no", ("no", "one", "two")), ("red", ())]
    questions = [Question("k", "c", "?", answer, "", "other", (), choices) for answer, choices in asked]
    assert [Answer("k", "x", 0.25).compute_p_right(question) for question in questions] == [
        0.25,
        0.75,
        0.75,
        0.25,
        0.25,
    ]
