"""How often the page says what isn't so, by its own functions on made-up evaluations; docs/evaluation.md has more."""

import math

import numpy as np
import pytest
from made_up_evaluations import KINDS, Evaluated, evaluate

INDEPENDENT = ("one", "two", "three", "four")
NOMINAL = 0.025


def most(runs: int, nominal: float = NOMINAL) -> float:
    """The nominal rate and three standard errors of a rate measured in that many runs."""
    return nominal + 3 * math.sqrt(nominal * (1 - nominal) / runs)


def runs_of(count: int, runs: int, gains: dict[str, float], kind: str = "questions") -> list[Evaluated]:
    draws = np.random.default_rng([count, runs, len(gains)])
    return [evaluate(draws, count, gains, kind=kind) for _ in range(runs)]


def rate(found: list[Evaluated], tone: str) -> float:
    return sum(each.verdict.tone == tone for each in found) / len(found)


@pytest.mark.parametrize("judges", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12, 19])
def test_few_captions_give_no_verdict_whatever_they_say(count: int, judges: int) -> None:
    for each in runs_of(count, 10, dict.fromkeys(("vqa", *INDEPENDENT[:judges]), 2.0)):
        assert each.verdict.headline == f"Too few captions to tell ({count} of 20)"
        assert each.verdict.tone == "unclear" and not each.alarms


@pytest.mark.long
@pytest.mark.parametrize("judges", [1, 4])
@pytest.mark.parametrize(
    ("count", "kinds"),
    [(20, ("questions", "embedding")), (50, tuple(KINDS)), (100, tuple(KINDS)), (400, tuple(KINDS))],
)
def test_a_model_that_is_not_better_is_seldom_called_so(count: int, kinds: tuple[str, ...], judges: int) -> None:
    gains = dict.fromkeys(INDEPENDENT[:judges], 0.0)
    runs = (240 if count < 400 else 120) // len(kinds)
    found = [each for kind in kinds for each in runs_of(count, runs, gains, kind)]
    assert rate(found, "better") <= most(len(found))
    assert rate(found, "worse") + rate(found, "mixed") <= most(len(found))


@pytest.mark.long
@pytest.mark.parametrize("gain", [0.25, 0.6])
@pytest.mark.parametrize("count", [20, 100, 400])
def test_no_alarm_where_the_independent_judge_gains_as_much(count: int, gain: float) -> None:
    found = runs_of(count, 60, dict.fromkeys(("vqa", "clip", "aesthetic", "one"), gain))
    assert sum(each.is_hacked for each in found) / 60 <= most(60)


def test_real_gains_and_real_hacking_are_found() -> None:
    gained = runs_of(100, 12, {"vqa": 0.6, "one": 0.6})
    assert rate(gained, "better") == 1 and not any(each.is_hacked for each in gained)
    hacked = runs_of(100, 12, {"vqa": 0.6, "one": 0.0})
    assert sum(each.is_hacked for each in hacked) >= 11


@pytest.mark.slow
def test_the_minimum_detectable_gain_is_detected_in_4_of_5_runs() -> None:
    (first,) = (s for s in runs_of(400, 1, {"one": 0.0})[0].judged)
    assert first.detectable is not None and first.spread is not None
    found = runs_of(400, 150, {"one": first.detectable / first.spread})
    assert 0.7 <= rate(found, "better") <= 0.9


@pytest.mark.slow
def test_a_table_of_categories_has_a_false_finding_in_at_most_one_of_twenty() -> None:
    draws, runs, wrong = np.random.default_rng(5), 80, 0
    for _ in range(runs):
        found = evaluate(draws, 240, {"vqa": 0.0, "one": 0.0}, categories=6, resamples=1000)
        rows = [row for parts in found.summary["categories"].values() for row in parts.values()]
        assert len(rows) == 12
        wrong += any(row["p_adjusted"] <= 0.05 for row in rows)
    assert wrong / runs <= most(runs, 0.05)
