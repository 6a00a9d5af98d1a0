"""The first line of the page, and its alarms."""

import pytest

from agfsync.config import Recipe, ScorerSettings, check
from agfsync.stages.report.verdict import Role, Standing, alarms, caution, points, role_of, standings, verdict


def standing(judge: str, role: Role, low: float, high: float) -> Standing:
    return Standing(judge, role, 200, 70.0, 70.0 + (low + high) / 2, (low + high) / 2, low, high, 0.5)


ORACLE_UP = standing("oracle", "independent", 1.0, 5.0)
ORACLE_STILL = standing("oracle", "independent", -1.0, 2.0)
ORACLE_DOWN = standing("oracle", "independent", -5.0, -1.0)
VQA_UP = standing("vqa", "trained on", 4.0, 8.0)
CLIP_DOWN = standing("clip", "trained on", -2.0, -0.5)


@pytest.mark.parametrize(
    ("judged", "tone", "headline"),
    [
        ([ORACLE_UP, VQA_UP], "better", "Better: oracle rose by 3.0 points"),
        ([ORACLE_DOWN, VQA_UP], "worse", "Worse: oracle fell by 3.0 points"),
        ([ORACLE_STILL, VQA_UP], "unclear", "No clear change: oracle moved by +0.5 points"),
        ([VQA_UP], "better", "Better by its own scores: vqa rose by 6.0 points"),
        ([VQA_UP, CLIP_DOWN], "mixed", "Mixed: vqa rose by 6.0, clip fell by 1.2"),
        ([], "unjudged", "Not evaluated yet"),
    ],
)
def test_independent_judges_decide_where_there_are_any(judged: list[Standing], tone: str, headline: str) -> None:
    found = verdict(judged)
    assert (found.tone, found.headline) == (tone, headline)


def test_no_alarm_where_the_independent_judge_rose_too() -> None:
    assert alarms([ORACLE_UP, VQA_UP]) == []


@pytest.mark.parametrize("oracle", [ORACLE_STILL, ORACLE_DOWN])
def test_alarm_where_a_trained_on_score_rose_and_the_oracle_did_not(oracle: Standing) -> None:
    (alarm,) = alarms([oracle, VQA_UP])
    assert "Reward hacking" in alarm.title
    assert "vqa rose by 6.0 (+4.0 to +8.0), while oracle moved by" in alarm.text


def test_alarm_where_another_score_paid_for_it() -> None:
    (alarm,) = alarms([ORACLE_UP, VQA_UP, CLIP_DOWN])
    assert "clip moved by −1.2" in alarm.text


def test_no_alarm_where_no_trained_on_score_rose() -> None:
    assert alarms([ORACLE_DOWN, CLIP_DOWN]) == []


def test_caution_where_no_independent_judge_took_part() -> None:
    assert "evaluation.judges" in caution([VQA_UP])
    assert caution([ORACLE_UP, VQA_UP]) == ""
    assert caution([]) == ""


def test_a_judge_is_trained_on_where_its_weight_is_not_zero() -> None:
    recipe = check({"pairs": {"weights": {"vqa": 1.0, "clip": 0.0}}}, "test")
    assert [role_of(j, recipe) for j in ("vqa", "clip", "oracle")] == ["trained on", "unweighted", "independent"]
    given = Recipe.model_validate({"pairs": {"source": "pairs"}})
    assert role_of("vqa", given) == "independent"


def test_independent_judges_stand_first() -> None:
    figures = {"prompts": 3, "base": 1, "aligned": 1, "difference": 0, "low": 0, "high": 0, "win_rate": 0.5}
    recipe = Recipe.model_validate(
        {"evaluation": {"judges": {"o": ScorerSettings(type="shapes-oracle", model="none")}}}
    )
    assert [s.judge for s in standings({"vqa": figures, "o": figures}, recipe)] == ["o", "vqa"]


@pytest.mark.parametrize(
    ("value", "text"), [(6.44, "+6.4"), (-0.26, "−0.3"), (0.04, "+0.04"), (-0.001, "0.0"), (0, "0.0")]
)
def test_points(value: float, text: str) -> None:
    assert points(value) == text
