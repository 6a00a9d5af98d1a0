"""The first line of the page, its grounds, and its alarms."""

import dataclasses
from typing import Any

import pytest

from agfsync.formats import Selector
from agfsync.recipe import Recipe, ScorerSettings, check_recipe
from agfsync.recipe.recipe import SHAPES_SCORERS
from agfsync.stages.report.verdict import (
    Role,
    Standing,
    compare_gains,
    describe_caution,
    find_alarms,
    find_collapse,
    find_role,
    format_interval,
    format_p,
    format_points,
    rank_judges,
    reach_verdict,
)
from agfsync.stages.selection import digest_judge, find_training_selectors, list_choosing_scorers


def standing(judge: str, role: Role, low: float, high: float, prompts: int = 200) -> Standing:
    middle, p = (low + high) / 2, 0.5 if low < 0 < high else 0.001
    figures = {"p": p, "p_adjusted": p if prompts >= 20 else None, "spread": 20.0}
    wins = {"win_rate": 0.5, "win_low": 0.4, "win_high": 0.6, "ties": 0.5}
    return Standing(judge, role, prompts, 70.0, 70.0 + middle, middle, low, high, **figures, **wins)  # type: ignore[arg-type]


ORACLE_UP = standing("oracle", "independent", 1.0, 5.0)
ORACLE_STILL = standing("oracle", "independent", -1.0, 2.0)
ORACLE_DOWN = standing("oracle", "independent", -5.0, -1.0)
VQA_UP = standing("vqa", "selected on", 4.0, 8.0)
CLIP_DOWN = standing("clip", "selected on", -2.0, -0.5)
UNKNOWN_UP = standing("vqa", "unknown", 4.0, 8.0)


def contrast(low: float, high: float, judge: str = "vqa", other: str = "oracle", prompts: int = 200) -> dict[str, Any]:
    p = 0.5 if low < 0 < high else 0.001
    ends = {"difference": (low + high) / 2, "low": low, "high": high, "p": p}
    return {"judge": judge, "other": other, "prompts": prompts, **ends}


@pytest.mark.parametrize(
    ("judged", "tone", "headline"),
    [
        ([ORACLE_UP, VQA_UP], "better", "Better: oracle rose by 3.0 points"),
        ([ORACLE_DOWN, VQA_UP], "worse", "Worse: oracle fell by 3.0 points"),
        ([ORACLE_STILL, VQA_UP], "unclear", "No clear change: oracle moved by +0.5 points"),
        ([VQA_UP], "better", "Better by its own scores: vqa rose by 6.0 points"),
        ([VQA_UP, CLIP_DOWN], "mixed", "Mixed by its own scores: vqa rose by 6.0, clip fell by 1.2"),
        ([UNKNOWN_UP], "better", "Better by judges of unknown independence: vqa rose by 6.0 points"),
        ([standing("oracle", "independent", 1, 5, prompts=8)], "unclear", "Too few captions to tell (8 of 20)"),
        ([], "unjudged", "Not evaluated yet"),
    ],
)
def test_independent_judges_decide_where_there_are_any(judged: list[Standing], tone: str, headline: str) -> None:
    found = reach_verdict(judged)
    assert (found.tone, found.headline) == (tone, headline)


def test_an_independent_judge_of_few_captions_leaves_the_decision_to_those_of_many() -> None:
    few = standing("little", "independent", 1, 5, prompts=8)
    assert reach_verdict([few, ORACLE_STILL]).headline == "No clear change: oracle moved by +0.5 points"
    assert reach_verdict([few, ORACLE_UP]).tone == "better"


def test_the_grounds_say_interval_corrected_p_and_what_would_show() -> None:
    grounds = reach_verdict([dataclasses.replace(ORACLE_UP, family=3), VQA_UP]).grounds
    assert "95 % interval of oracle: +1.0 to +5.0; nothing was selected on it." in grounds
    assert "p = 0.001 (Holm’s correction over 3 judges)." in grounds
    # (t(1 - 0.05/6) + t(0.8)) x 20 / sqrt(200), 199 degrees of freedom
    assert "a gain of 4.6 points shows in 4 of 5 such evaluations" in grounds


def test_nothing_is_said_of_independence_where_it_is_unknown() -> None:
    grounds, told = reach_verdict([UNKNOWN_UP]).grounds, describe_caution([UNKNOWN_UP])
    assert "whether the pairs were selected on it isn’t known" in grounds and "nothing was selected" not in grounds
    assert told.startswith("What chose the pairs isn’t known, so no judge is called independent")


def test_a_judge_that_is_only_not_shown_to_rise_raises_no_alarm() -> None:
    assert find_alarms([ORACLE_STILL, VQA_UP]) == []
    assert find_alarms([ORACLE_STILL, VQA_UP], [contrast(-0.1, 0.4)]) == []
    assert find_alarms([ORACLE_STILL, VQA_UP], [contrast(0.1, 0.4, prompts=19)]) == []


@pytest.mark.parametrize("oracle", [ORACLE_STILL, ORACLE_DOWN])
@pytest.mark.parametrize("shown", [contrast(0.1, 0.4), contrast(-0.4, -0.1, "oracle", "vqa")])
def test_alarm_where_a_selecting_score_gained_more_than_the_oracle(oracle: Standing, shown: dict[str, Any]) -> None:
    (alarm,) = find_alarms([oracle, VQA_UP], [shown])
    assert "Reward hacking" in alarm.title
    assert "vqa rose by 6.0 (+4.0 to +8.0), while oracle moved by" in alarm.text
    assert "vqa gained 0.25 more (+0.10 to +0.40, corrected p 0.001)" in alarm.text


def test_where_the_oracle_rose_too_but_less_the_page_says_so_without_an_alarm() -> None:
    judged, shown = [ORACLE_UP, VQA_UP], [contrast(0.1, 0.4)]
    assert find_alarms(judged, shown) == []
    assert "a part of the gain may be the scores’ own" in describe_caution(judged, shown)
    assert describe_caution(judged, [contrast(-0.1, 0.4)]) == ""


def test_the_excesses_are_corrected_over_all_selecting_and_independent_judges() -> None:
    judged = [ORACLE_UP, standing("other", "independent", 1, 5), VQA_UP, CLIP_DOWN]
    shown = [contrast(0.1, 0.4, one, other) for one in ("vqa", "clip") for other in ("oracle", "other")]
    shown += [contrast(0.1, 0.4, "vqa", "clip"), contrast(0.1, 0.4, "oracle", "other")]
    found = compare_gains(judged, shown)
    assert len(found) == 4 and {each.p_adjusted for each in found} == {0.004}


def test_alarm_where_another_score_paid_for_it() -> None:
    (alarm,) = find_alarms([ORACLE_UP, VQA_UP, CLIP_DOWN])
    assert "clip moved by −1.2" in alarm.text


def test_no_alarm_where_no_selecting_score_rose() -> None:
    assert find_alarms([ORACLE_DOWN, CLIP_DOWN], [contrast(0.1, 0.4, "clip")]) == []


def test_caution_where_no_independent_judge_took_part() -> None:
    assert "scorers" in describe_caution([VQA_UP])
    assert describe_caution([ORACLE_UP, VQA_UP]) == ""
    assert describe_caution([]) == ""


def test_a_judge_is_selected_on_where_its_weight_is_not_zero() -> None:
    judges = {
        "oracle": {"type": "shapes-oracle"},
        "again": {"type": "vqa", "path": "embedded:vqa", "dtype": "bf16"},
        "cousin": {"type": "pickscore", "path": "embedded:vqa"},
    }
    recipe = check_recipe(
        {"pairs": {"choose": {"weights": {"vqa": 1.0, "clip": 0.0}}}, "scorers": SHAPES_SCORERS | judges}, "test"
    )
    roles = [find_role(j, recipe, list_choosing_scorers(recipe)) for j in ("vqa", "clip", *judges)]
    assert roles == ["selected on", "unweighted", "independent", "selected on", "shares a model"]


@pytest.mark.parametrize(
    ("method", "independent"),
    [
        ({"type": "dpo"}, {"clip", "aesthetic"}),
        ({"type": "kto", "reward": {"clip": 1.0, "vqa": 0.0}}, {"aesthetic", "vqa"}),
        ({"type": "best", "reward": {"clip": 1.0}, "at_least": {"aesthetic": 60}}, {"vqa"}),
        ({"type": "kto"}, {"clip", "aesthetic"}),
        ({"type": "random-sft"}, {"vqa", "clip", "aesthetic"}),
    ],
)
def test_a_judge_that_the_method_pleases_is_not_independent(
    made_up: Any, method: dict[str, Any], independent: set[str]
) -> None:
    changes = {"training.method": method, "pairs.choose.weights": {"vqa": 1.0}, "scores.by": []}
    context = made_up(train=4, held_out=5)
    recipe = context.recipe.with_(changes)
    selectors = find_training_selectors(context.run, recipe)
    assert selectors is not None
    pleased = {each.name for each in selectors}
    assert {"vqa", "clip", "aesthetic"} - pleased == independent


def test_a_pair_set_makes_every_judge_unknown_unless_it_names_its_selectors() -> None:
    recipe = Recipe.model_validate({"pairs": {"source": "pairs"}})
    assert {find_role(j, recipe, None) for j in ("vqa", "clip", "aesthetic")} == {"unknown"}
    vqa = ScorerSettings(type="vqa", path="embedded:vqa")
    elsewhere = [Selector("asker", 0.4, digest_judge(vqa), "embedded:vqa"), Selector("clip", 1.0, "0", "other")]
    roles = [find_role(j, recipe, elsewhere) for j in ("vqa", "clip", "aesthetic")]
    assert roles == ["selected on", "selected on", "independent"]


FIGURES = {"prompts": 30, "base": 1, "aligned": 1, "difference": 1.0, "low": 0, "high": 0, "p": 0.02, "spread": 1.0}
FIGURES |= {"win_rate": 0.5, "win_low": 0.4, "win_high": 0.6, "ties": 0.0}


def test_independent_judges_stand_first_and_are_corrected_among_themselves() -> None:
    oracle = ScorerSettings(type="shapes-oracle")
    recipe = Recipe.model_validate({"scorers": SHAPES_SCORERS | dict.fromkeys(("o", "o2", "o3"), oracle)})
    summary = {"vqa": FIGURES, "o": FIGURES, "o2": FIGURES | {"p": 0.9}, "o3": FIGURES | {"prompts": 19, "p": 0.01}}
    found = rank_judges(summary, recipe, list_choosing_scorers(recipe))
    assert [s.judge for s in found] == ["o", "o2", "o3", "vqa"]
    assert [s.p_adjusted for s in found] == [0.04, 0.9, None, 0.02]
    assert [s.family for s in found] == [2, 2, 2, 1]
    assert [s.rose for s in found] == [True, False, False, True]


@pytest.mark.parametrize(
    ("value", "text"), [(6.44, "+6.4"), (-0.26, "−0.3"), (0.04, "+0.04"), (-0.001, "0.0"), (0, "0.0")]
)
def test_points(value: float, text: str) -> None:
    assert format_points(value) == text


def test_intervals_and_p_values_are_told_even_where_there_are_none() -> None:
    assert format_interval(-0.3, 4.04) == "−0.3 to +4.0" and format_interval(None, None) == "none, too few captions"
    assert [format_p(p) for p in (None, 0.0002, 0.0042, 0.031, 1.0)] == ["—", "< 0.001", "0.004", "0.03", "1.00"]


@pytest.mark.parametrize(
    ("changes", "warned"),
    [({}, True), ({"prompts": 19}, False), ({"p": 0.06}, False), ({"difference": 2.0}, False), ({"p": None}, False)],
)
def test_less_diversity_is_an_alarm(changes: dict[str, Any], warned: bool) -> None:
    figures = {"prompts": 40, "base": 12.0, "difference": -2.0, "low": -3.0, "high": -1.0, "p": 0.01}
    found = find_collapse({**figures, "embedding": "clip", **changes})
    assert bool(found) == warned and find_collapse(None) == []
    if warned:
        assert "moved by −2.0 (−3.0 to −1.0) from 12.0, in the embeddings of clip" in found[0].text
