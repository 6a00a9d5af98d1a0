"""Rows that pair, and their summary, against values worked out by hand."""

import json

import pytest

from agfsync.records import Answer, Caption, Question, Score
from agfsync.stages.evaluation.comparing import compare, summarise

CAPTIONS = [Caption("c1", "one", "counting", "held-out"), Caption("c2", "two", "colours", "held-out")]
SIDES = {"c1": ("b1", "a1"), "c2": ("b2", "a2")}
QUESTIONS = {
    "c1": [
        Question("q1", "c1", "Is it red?", "yes", "red", "color"),
        Question("q2", "c1", "Is it blue?", "no", "blue", "color"),
        Question("q3", "c1", "Is there one?", "yes", "one", "counting"),
    ]
}


def score(candidate: str, judge: str, value: float | None, *words: str) -> Score:
    answers = tuple(Answer(f"q{i + 1}", word, 0.5) for i, word in enumerate(words))  # type: ignore[arg-type]
    return Score(f"{candidate} {judge}", candidate, judge, value, None if value is not None else "broken", answers)


def test_a_row_of_the_whole_image_and_one_of_each_element_type() -> None:
    scores = [score("b1", "vqa", 33.3, "no", "yes", "yes"), score("a1", "vqa", 66.7, "yes", "yes", "yes")]
    rows = compare(CAPTIONS, SIDES, scores, QUESTIONS)
    assert [(r.caption_key, r.category, r.judge, r.element_type, r.base, r.aligned) for r in rows] == [
        ("c1", "counting", "vqa", "", 33.3, 66.7),
        ("c1", "counting", "vqa", "color", 0.0, 50.0),
        ("c1", "counting", "vqa", "counting", 100.0, 100.0),
    ]


def test_a_no_question_is_right_where_the_answer_is_no() -> None:
    scores = [score("b1", "vqa", 0, "no", "yes"), score("a1", "vqa", 100, "yes", "no")]
    (_, color) = compare(CAPTIONS, SIDES, scores, QUESTIONS)
    assert (color.base, color.aligned) == (0.0, 100.0)


def test_what_one_side_lacks_is_not_compared() -> None:
    scores = [score("b1", "clip", 20.0), score("a1", "clip", None), score("b2", "clip", 30.0)]
    assert compare(CAPTIONS, SIDES, scores, QUESTIONS) == []
    assert compare(CAPTIONS, {}, [score("b1", "clip", 1.0), score("a1", "clip", 2.0)], QUESTIONS) == []


def test_keys_tell_rows_apart() -> None:
    words = ("yes", "no", "yes")
    scores = [score(k, j, 50.0, *words) for k in ("b1", "a1", "b2", "a2") for j in ("vqa", "oracle")]
    rows = compare(CAPTIONS, SIDES, scores, QUESTIONS)
    assert len({row.key for row in rows}) == len(rows) == 2 * (1 + 2) + 2


def test_the_summary_by_judge_category_and_element_type() -> None:
    scores = [
        *(score("b1", "vqa", 40.0, "no", "no", "no"), score("a1", "vqa", 60.0, "yes", "no", "no")),
        *(score("b2", "vqa", 50.0), score("a2", "vqa", 50.0)),
    ]
    summary = summarise(compare(CAPTIONS, SIDES, scores, QUESTIONS), resamples=200, seed=0)
    vqa = summary["judges"]["vqa"]
    assert {k: vqa[k] for k in ("prompts", "base", "aligned", "difference", "win_rate")} == {
        "prompts": 2,
        "base": 45.0,
        "aligned": 55.0,
        "difference": 10.0,
        "win_rate": 0.75,
    }
    assert (vqa["low"], vqa["high"]) == (0.0, 20.0)
    assert summary["categories"]["vqa"]["counting"]["difference"] == 20.0
    assert summary["element_types"]["vqa"]["color"]["difference"] == pytest.approx(50.0)
    assert json.loads(json.dumps(summary)) == summary


def test_nothing_compared_is_an_empty_summary() -> None:
    assert summarise([], 10, 0) == {"judges": {}, "categories": {}, "element_types": {}}
