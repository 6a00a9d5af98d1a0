"""Rows that pair, and their summary, against values worked out by hand."""

import json

import numpy as np
import pytest

from agfsync.records import Answer, Caption, Comparison, Question, Score
from agfsync.stages.evaluation.comparing import compare_models, summarise_comparisons

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
    rows = compare_models(CAPTIONS, SIDES, scores, QUESTIONS)
    assert [(r.caption_key, r.category, r.judge, r.element_type, r.base, r.aligned) for r in rows] == [
        ("c1", "counting", "vqa", "", 33.3, 66.7),
        ("c1", "counting", "vqa", "color", 0.0, 50.0),
        ("c1", "counting", "vqa", "counting", 100.0, 100.0),
    ]


def test_a_no_question_is_right_where_the_answer_is_no() -> None:
    scores = [score("b1", "vqa", 0, "no", "yes"), score("a1", "vqa", 100, "yes", "no")]
    (_, color) = compare_models(CAPTIONS, SIDES, scores, QUESTIONS)
    assert (color.base, color.aligned) == (0.0, 100.0)


def test_what_one_side_lacks_is_not_compared() -> None:
    scores = [score("b1", "clip", 20.0), score("a1", "clip", None), score("b2", "clip", 30.0)]
    assert compare_models(CAPTIONS, SIDES, scores, QUESTIONS) == []
    assert compare_models(CAPTIONS, {}, [score("b1", "clip", 1.0), score("a1", "clip", 2.0)], QUESTIONS) == []


def test_keys_tell_rows_apart() -> None:
    words = ("yes", "no", "yes")
    scores = [score(k, j, 50.0, *words) for k in ("b1", "a1", "b2", "a2") for j in ("vqa", "oracle")]
    rows = compare_models(CAPTIONS, SIDES, scores, QUESTIONS)
    assert len({row.key for row in rows}) == len(rows) == 2 * (1 + 2) + 2


def test_the_summary_by_judge_category_and_element_type() -> None:
    scores = [
        *(score("b1", "vqa", 40.0, "no", "no", "no"), score("a1", "vqa", 60.0, "yes", "no", "no")),
        *(score("b2", "vqa", 50.0), score("a2", "vqa", 50.0)),
    ]
    summary = summarise_comparisons(compare_models(CAPTIONS, SIDES, scores, QUESTIONS), resamples=200, seed=0)
    vqa = summary["judges"]["vqa"]
    assert {k: vqa[k] for k in ("prompts", "base", "aligned", "difference", "win_rate", "ties")} == {
        "prompts": 2,
        "base": 45.0,
        "aligned": 55.0,
        "difference": 10.0,
        "win_rate": 0.75,
        "ties": 0.5,
    }
    assert (vqa["low"], vqa["high"], vqa["p"]) == (None, None, None), "two captions say nothing of the others"
    assert vqa["spread"] == pytest.approx(200**0.5)
    assert vqa["win_low"] < 0.75 < vqa["win_high"]
    assert summary["categories"]["vqa"]["counting"]["difference"] == 20.0
    assert summary["element_types"]["vqa"]["color"]["difference"] == pytest.approx(50.0)
    assert json.loads(json.dumps(summary)) == summary


def test_nothing_compared_is_an_empty_summary() -> None:
    assert summarise_comparisons([], 10, 0) == {"judges": {}, "categories": {}, "element_types": {}, "contrasts": []}


def rows_of(judge: str, differences: list[float], category: str = "things") -> list[Comparison]:
    return [
        Comparison(f"{judge} {category} {n}", "held-out", f"{category} {n}", category, judge, "", 50.0, 50.0 + d)
        for n, d in enumerate(differences)
    ]


def test_a_table_is_corrected_over_its_rows_with_enough_captions() -> None:
    noise = np.random.default_rng(0).normal(0, 10, 19).tolist()
    rows = [row for judge in ("vqa", "clip") for part in ("a", "b") for row in rows_of(judge, [1.0, *noise], part)]
    rows += rows_of("vqa", noise, "small")
    found = summarise_comparisons(rows, 199, 0)["categories"]
    assert found["vqa"]["small"]["p_adjusted"] is None and found["vqa"]["small"]["p"] is not None
    plain = [found[judge][part]["p"] for judge in ("vqa", "clip") for part in ("a", "b")]
    assert min(found[judge][part]["p_adjusted"] for judge in ("vqa", "clip") for part in ("a", "b")) == min(
        1.0, 4 * min(plain)
    )


def test_gains_are_contrasted_in_units_of_each_judges_own_spread() -> None:
    """Four times the scale and the same gain in its own units: no excess. The same points: an excess."""
    noise = np.random.default_rng(1).normal(0, 5, 60)
    gains = {"wide": 4 * (noise + 2), "fine": noise[::-1] + 2, "still": noise[::-1] + 0}
    summary = summarise_comparisons([r for judge, d in gains.items() for r in rows_of(judge, d.tolist())], 999, 0)
    found = {(c["judge"], c["other"]): c for c in summary["contrasts"]}
    assert found["wide", "fine"]["difference"] == pytest.approx(0, abs=1e-9)
    assert found["wide", "fine"]["low"] < 0 < found["wide", "fine"]["high"]
    z = noise.mean() / noise.std()
    assert found["wide", "still"]["difference"] == pytest.approx((noise.mean() + 2) / noise.std() - z)
    assert found["wide", "still"]["prompts"] == 60
    assert json.loads(json.dumps(summary)) == summary


def test_a_judge_that_never_moves_is_not_contrasted() -> None:
    rows = rows_of("vqa", [1.0, 2.0, 3.0] * 10) + rows_of("clip", [0.0] * 30)
    assert summarise_comparisons(rows, 99, 0)["contrasts"] == []
