"""The statistics of a run's data, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from agfsync.commands.inspect import format_statistics, inspect_path
from agfsync.recipe import Recipe, check_recipe, dump_recipe
from agfsync.records import Candidate, Caption, Pair, Question, Score
from agfsync.stages.dataset import THRESHOLDS, gather_statistics
from agfsync.store import Run


@pytest.fixture
def recipe() -> Recipe:
    best = {"type": "best", "reward": {"vqa": 1.0}, "at_least": {"vqa": 50.0}}
    scorers = {name: {"type": "shapes-oracle"} for name in ("vqa", "aesthetic")}
    pairs, scores = {"choose": {"weights": {"vqa": 1.0}}}, {"by": ["vqa", "aesthetic"]}
    return check_recipe({"scorers": scorers, "scores": scores, "pairs": pairs, "training": {"method": best}}, "tiny")


def fill(run: Run) -> None:
    tables: dict[str, list[Any]] = {
        "captions": [
            Caption("a", "a red cat", "animals", "train"),
            Caption("b", "a blue dog and a tree", "animals", "train"),
            Caption("c", "bread", "food", "held-out"),
        ],
        "questions": [
            Question("1", "a", "Is there a cat?", "yes", "cat", "animal"),
            Question("2", "a", "Is the cat red?", "yes", "Cat", "color"),
            Question("3", "b", "Is there a dog?", "yes", "dog", "animal"),
            Question("4", "b", "A tree?", "yes", "tree", "object"),
        ],
        "candidates": [Candidate(f"{k}{n}", k, n, 0, "", b"") for k in "ab" for n in range(2)],
        "scores": [],
        "pairs": [],
    }
    values = {"a0": (95.0, 40.0), "a1": (20.0, 90.0), "b0": (90.0, 60.0), "b1": (None, 10.0)}
    for key, (vqa, aesthetic) in values.items():
        for name, value in (("vqa", vqa), ("aesthetic", aesthetic)):
            tables["scores"].append(Score(f"{key}{name}", key, name, value, "" if value is not None else "broken"))
    for table, rows in tables.items():
        kinds = {"captions": Caption, "questions": Question, "candidates": Candidate, "scores": Score, "pairs": Pair}
        units = {row.key: [row] for row in rows}
        run.commit(table, units, kinds[table].schema)
        run.select(table, units)


def test_the_statistics_are_those_counted_by_hand(tmp_path: Path, recipe: Recipe) -> None:
    with Run.create(tmp_path / "run", dump_recipe(recipe)) as run:
        assert gather_statistics(run, recipe) == {}
        fill(run)
        found = gather_statistics(run, recipe)
    assert (found["captions"], found["held_out"], found["questions"], found["candidates"]) == (3, 1, 4, 4)
    assert found["words_a_caption"] == pytest.approx((3 + 6 + 1) / 3)
    assert found["questions_a_caption"] == 2.0  # of the captions that have any
    assert found["elements_a_caption"] == 1.5  # the cat is one element
    assert found["words_a_question"] == (4 + 4 + 4 + 2) / 4
    assert found["element_types"]["animal"] == {"questions": 2, "share": 0.5}
    assert found["categories"]["animals"] == {
        "captions": 2,
        "share": pytest.approx(2 / 3),
        "words": 4.5,
        "questions": 2.0,
    }
    at = {threshold: place for place, threshold in enumerate(THRESHOLDS)}
    # The best of each caption: vqa 95 and 90, aesthetic 90 and 60.
    assert [found["utilisation"]["vqa"][at[t]] for t in (0, 90, 95, 100)] == [1.0, 1.0, 0.5, 0.0]
    assert [found["utilisation"]["aesthetic"][at[t]] for t in (60, 65, 90, 95)] == [1.0, 0.5, 0.5, 0.0]
    # One candidate must pass all: a's pass one each.
    assert found["filters"] == [
        {"at_least": {"vqa": 90.0, "aesthetic": 60.0}, "share": 0.5},
        {"at_least": {"vqa": 85.0, "aesthetic": 50.0}, "share": 0.5},
        {"at_least": {"vqa": 50.0}, "share": 1.0},
    ]
    assert found["conversion"] == 0.0


def test_inspect_prints_them(tmp_path: Path, recipe: Recipe) -> None:
    with Run.create(tmp_path / "run", dump_recipe(recipe)) as run:
        fill(run)
    contents = inspect_path(tmp_path / "run").plain()
    lines = format_statistics(contents["statistics"])
    assert lines[0] == "words a caption     3.33" and "  animal            2 questions, 50.0 %" in lines
    assert "  50.0 % have a candidate with vqa at least 90 and aesthetic at least 60" in lines
    assert lines[-2].split() == ["vqa", *["100"] * 10, "0"]
    assert format_statistics({}) == []
