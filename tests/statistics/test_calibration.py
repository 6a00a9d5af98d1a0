"""Calibration of known answers: figures by hand, a naive second implementation, and intervals that hold their rate."""

import math

import numpy as np
import pytest

from agfsync.statistics.calibration import (
    KnownAnswer,
    OpposedAnswers,
    compute_calibration_error,
    describe_answers,
    describe_yes_bias,
    infer_calibration_error,
    make_reliability_curve,
)

ANSWERS = [
    KnownAnswer("a", "color", True, 0.95),
    KnownAnswer("a", "color", False, 0.75),
    KnownAnswer("a", "shape", True, 0.25),
    KnownAnswer("b", "shape", False, 0.05),
    KnownAnswer("b", "shape", False, 0.55),
]


def test_the_figures_are_those_counted_by_hand() -> None:
    found = describe_answers(ANSWERS, 50, 0)
    assert (found["questions"], found["images"], found["right"]) == (5, 2, 2 / 5)
    assert found["yes_where_no"] == 2 / 3 and found["no_where_yes"] == 1 / 2
    assert found["brier"] == pytest.approx((0.05**2 + 0.75**2 + 0.75**2 + 0.05**2 + 0.55**2) / 5)
    # Each answer is alone in its bin.
    assert found["ece"] == pytest.approx((0.05 + 0.75 + 0.75 + 0.05 + 0.55) / 5)
    assert found["right_low"] is None and found["ece_low"] is None  # two images tell nothing
    assert found["types"]["color"]["right"] == 1 / 2 and found["types"]["shape"]["yes_where_no"] == 1 / 2
    assert found["types"]["color"]["no_where_yes"] == 0
    assert [(each["low"], each["yes"]) for each in found["curve"]] == [(0, 0), (0.2, 1), (0.5, 0), (0.7, 0), (0.9, 1)]


def test_no_answers_have_no_figures() -> None:
    found = describe_answers([], 50, 0)
    assert found["questions"] == 0 and found["right"] is None and found["ece"] is None and found["curve"] == []


def naive_error(truths: list[bool], p_yes: list[float]) -> float:
    """Bin by bin, from the definition."""
    error = 0.0
    for b in range(10):
        held = [n for n, p in enumerate(p_yes) if b / 10 <= p < (b + 1) / 10 or (b == 9 and p == 1)]
        if held:
            confidence = math.fsum(p_yes[n] for n in held) / len(held)
            share = sum(truths[n] for n in held) / len(held)
            error += len(held) / len(p_yes) * abs(confidence - share)
    return error


def test_the_error_is_that_of_a_naive_implementation() -> None:
    draws = np.random.default_rng(3)
    p_N, true_N = np.append(draws.uniform(size=500), [0.0, 1.0, 0.5]), draws.uniform(size=503) < 0.4
    assert compute_calibration_error(true_N, p_N) == pytest.approx(naive_error(true_N.tolist(), p_N.tolist()))
    assert sum(each["questions"] for each in make_reliability_curve(true_N, p_N)) == 503


@pytest.mark.parametrize(("power", "truth", "least"), [(1, 0.0, 0.93), (2, 0.0967, 0.82)])
def test_the_interval_holds_the_true_error(power: float, truth: float, least: float) -> None:
    """Of a calibrated judge, and of one that is too sure: p^2 / (p^2 + (1 - p)^2) where the truth is p."""
    images, held = [str(n // 5) for n in range(500)], 0
    for seed in range(60):
        draws = np.random.default_rng(seed)
        chance_N = draws.uniform(size=500)
        p_N = chance_N**power / (chance_N**power + (1 - chance_N) ** power)
        found = infer_calibration_error(images, draws.uniform(size=500) < chance_N, p_N, 400, seed)
        assert found is not None
        held += found.low <= truth <= found.high
    assert held / 60 >= least


def test_a_judge_that_says_yes_to_both_is_biased() -> None:
    couples = [OpposedAnswers(f"i{n}", 0.9, 0.8) for n in range(8)] + [
        OpposedAnswers("i8", 0.9, 0.1),
        OpposedAnswers("i9", 0.1, 0.2),
    ]
    found = describe_yes_bias(couples, 200, 0)
    assert (found["couples"], found["both_yes"], found["both_no"]) == (10, 0.8, 0.1)
    assert found["bias"] == pytest.approx(0.7) and found["low"] > 0
    assert describe_yes_bias([], 200, 0) == {"couples": 0}


def test_a_consistent_judge_is_not_biased() -> None:
    found = describe_yes_bias([OpposedAnswers(f"i{n}", n % 2, 1 - n % 2) for n in range(10)], 200, 0)
    assert (found["bias"], found["low"], found["high"]) == (0, 0, 0)
