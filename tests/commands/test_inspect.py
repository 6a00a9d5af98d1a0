import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync import pipeline
from agfsync.commands.inspect import inspect_path
from agfsync.errors import FormatError
from agfsync.recipe import Recipe


def test_prompts_and_questions_are_counted_by_category(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("prompt,category,question,answer\na cat,animals,Is it?,yes\na cat,animals,What?,\nbread,food,,\n")
    assert inspect_path(file).plain() == {
        "what": "a CSV or TSV table",
        "captions": 2,
        "questions": 1,
        "pairs": 0,
        "ties": 0,
        "judgements": 0,
        "left_out": {},
        "left_out_at": {},
        "questions_left_out": {"no answer given": 1},
        "categories": {"animals": {"captions": 1, "questions": 1}, "food": {"captions": 1}},
    }


def test_pairs_ties_and_what_is_broken_are_counted_apart(tmp_path: Path, pair_set: Callable[..., Path]) -> None:
    folder = pair_set(("a cat", "red", "blue"), ("a cat", "red", "blue"), ("a dog", "red", "blue"))
    (folder / "loser" / "1.png").write_bytes(b"")
    (folder / "loser" / "2.png").unlink()
    contents = inspect_path(folder)
    assert (contents.captions, contents.pairs, contents.ties) == (2, 1, 0)
    missing, lonely = "missing image: the file holds none", "a winner without a loser of its name"
    assert contents.left_out == {missing: 1, lonely: 1}
    rows = [{"caption": "a cat", "jpg_0": b"", "jpg_1": b"", "label_0": 0.5, "label_1": 0.5}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "ties.parquet")
    assert (inspect_path(tmp_path / "ties.parquet").ties, inspect_path(tmp_path / "ties.parquet").pairs) == (1, 0)


def test_a_run_is_counted_like_any_other(tmp_path: Path, recipe: Recipe) -> None:
    pipeline.prepare(tmp_path / "run", recipe)
    assert inspect_path(tmp_path / "run").plain()["captions"] == 0
    pipeline.run(tmp_path / "run", until="pairs")
    contents = inspect_path(tmp_path / "run")
    assert contents.what == "a run of agfsync" and contents.captions == 17
    assert contents.pairs + contents.ties == 12 and contents.questions_left_out["repeated"] > 0
    assert sum(of["captions"] for of in contents.categories.values()) == 17
    assert json.loads(json.dumps(contents.plain()))["pairs"] == contents.pairs


def test_what_is_nothing_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="holds captions or pairs in no known format"):
        inspect_path(tmp_path)
