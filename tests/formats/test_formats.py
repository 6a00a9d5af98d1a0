"""Tests of every format in the catalog."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync import catalog
from agfsync.formats import AnswerSet, Format, LeftOut, LeftOutTally, PairSet, PairWriter, PromptFile

NAMES = catalog.list_names("formats")


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_title_and_does_something(name: str) -> None:
    format_ = catalog.find("formats", name)()
    assert isinstance(format_, Format) and format_.title
    assert isinstance(format_, PromptFile | PairSet | PairWriter | AnswerSet)


@pytest.mark.parametrize("name", NAMES)
def test_it_recognises_nothing_that_is_not_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested.json").write_text("[" * 100_000)
    (tmp_path / "numbers.json").write_text(json.dumps([1, 2]))
    (tmp_path / "object.json").write_text(json.dumps({"prompt": "a cat"}))
    (tmp_path / "loss.jsonl").write_text('{"loss": 1.0}')
    (tmp_path / "photo.json").write_bytes(b"\x89PNG\xff\x00")
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "table.tsv").write_text("")
    (tmp_path / "text.parquet").write_text("prompt")
    pq.write_table(pa.table({"loss": [1.0]}), tmp_path / "empty.parquet")
    format_ = catalog.find("formats", name)()
    found = [path.name for path in (*tmp_path.iterdir(), tmp_path / "nowhere") if format_.recognises(path)]
    assert found == []


def test_reasons_are_counted_with_the_first_places_of_each() -> None:
    tally = LeftOutTally()
    for row in (2, 3, 3, 5, 8):
        tally.add(LeftOut("no text", f"row {row}"))
    tally.add(LeftOut("of the split 'test'", "test.csv", 7, failed=False))
    assert list(tally.lines()) == ["of the split 'test' 7 (test.csv)", "no text 5 (row 2, row 3, row 5, ...)"]
    assert tally.counts.total() == 12 and tally.failed == {"no text": 5}
    tally.add(LeftOut("no place", failed=False))
    assert list(tally.lines())[-1] == "no place 1"
