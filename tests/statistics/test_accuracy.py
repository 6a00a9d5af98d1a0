"""Accuracy by each rule for ties, against figures computed by hand, and its intervals over prompts."""

import math

import numpy as np
import pytest

from agfsync.statistics import infer_mean
from agfsync.statistics.accuracy import (
    LabelledPair,
    compare_accuracy,
    credit_pairs,
    describe_accuracy,
    sum_by_prompt,
    tabulate_accuracy,
    tabulate_agreement,
)

NAN = math.nan
LABELS = [1, 1, 1, -1, -1, 0, 0, 1]
DIFFERENCES = [2.0, -1.0, 0.0, -3.0, 0.0, 0.0, 0.5, NAN]
"""right, wrong, equal; right, equal; a tie that is called one, a tie that is not; no value"""


@pytest.mark.parametrize(
    ("rule", "credits"),
    [
        ("half", [1, 0, 0.5, 1, 0.5, NAN, NAN, NAN]),
        ("strict", [1, 0, 0, 1, 0, NAN, NAN, NAN]),
        ("inversions", [1, 0, 1, 1, 0, 1, 1, NAN]),
        ("threshold", [1, 0, 0.5, 1, 0.5, 1, 0.5, NAN]),
        ("exact", [1, 0, 0, 1, 0, 1, 0, NAN]),
    ],
)
def test_each_rule_counts_ties_its_way(rule: str, credits: list[float]) -> None:
    np.testing.assert_array_equal(credit_pairs(LABELS, DIFFERENCES, rule), credits)  # type: ignore[arg-type]


def test_values_within_the_threshold_are_a_tie() -> None:
    assert credit_pairs([1, 1, 0], [0.3, 0.7, 0.3], "threshold", 0.5).tolist() == [0.5, 1.0, 1.0]
    assert credit_pairs([1, 1, 0], [0.3, 0.7, 0.3], "exact", 0.5).tolist() == [0.0, 1.0, 1.0]


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rule is called loose: there are half"):
        credit_pairs([1], [1.0], "loose")  # type: ignore[arg-type]


def test_pooled_and_by_prompt_differ_where_prompts_have_more_pairs() -> None:
    # Three right of three for a, none of one for b: 3 of 4 pairs, half of the prompts.
    found = sum_by_prompt(["a", "a", "b", "a", "b"], np.array([1.0, 1.0, 0.0, 1.0, NAN]))
    assert (found.prompts, found.counts_Q.tolist()) == (("a", "b"), [3.0, 1.0])
    assert (found.pooled, found.by_prompt) == (0.75, 0.5)
    # 0.75 + (3 - 0.75 x 3) / 2 and 0.75 + (0 - 0.75) / 2
    assert found.influence_Q.tolist() == [1.125, 0.375]
    assert found.influence_Q.mean() == found.pooled


def test_the_interval_is_over_prompts() -> None:
    """Twice the pairs of the same prompts say nothing more."""
    prompts = [f"{n}" for n in range(30)]
    right = np.array([float(n % 3 > 0) for n in range(30)])
    once = describe_accuracy(prompts, right, 500, 1)
    twice = describe_accuracy(prompts * 2, np.concatenate([right, right]), 500, 1)
    assert (twice["pairs"], twice["prompts"]) == (60, 30)
    assert [twice[name] for name in ("accuracy", "low", "high")] == pytest.approx(
        [once[name] for name in ("accuracy", "low", "high")]
    )
    interval = infer_mean(right, 500, 1).interval
    assert interval is not None and (once["low"], once["high"]) == pytest.approx(interval)


def test_the_interval_covers_the_truth_where_prompts_differ_in_size() -> None:
    source, hits = np.random.default_rng(0), 0
    for _ in range(60):
        sizes, rates = source.integers(1, 7, 80), source.beta(4, 2, 80)
        prompts = [f"{q}" for q, size in enumerate(sizes) for _ in range(size)]
        right = np.concatenate([source.random(size) < rate for size, rate in zip(sizes, rates, strict=True)])
        found = describe_accuracy(prompts, right.astype(float), 200, 3)
        hits += found["low"] <= 4 / 6 <= found["high"]
    assert hits >= 54


def test_two_judges_are_compared_on_the_pairs_that_both_have_judged() -> None:
    compared = compare_accuracy(
        ["a", "b", "c", "d"], np.array([1.0, 1.0, 0.0, NAN]), np.array([0.0, 1.0, NAN, 0.0]), 10, 0
    )
    assert compared is not None
    assert compared[0] == 0.5
    assert compared[1].interval is None  # of two prompts
    assert compare_accuracy(["a"], np.array([NAN]), np.array([1.0]), 10, 0) is None


def test_the_table_has_all_pairs_and_each_aspect() -> None:
    pairs = [
        LabelledPair("a", "1", "2", 1, "look"),
        LabelledPair("b", "3", "4", -1, "look"),
        LabelledPair("b", "3", "4", 1, "fit"),
        LabelledPair("c", "5", "6", 0, "fit"),
        LabelledPair("c", "5", "6", 1),
    ]
    ours, other = np.array([1.0, -1.0, 1.0, 5.0, 1.0]), np.array([1.0, 1.0, NAN, 5.0, 0.0])
    table = tabulate_accuracy(pairs, {"ours": ours, "other": other}, "ours", 50, 0)
    assert list(table) == ["", "fit", "look"]
    assert {name: table[""][name]["accuracy"] for name in ("ours", "other")} == {"ours": 1.0, "other": 0.5}
    assert table[""]["ours"]["pairs"] == 4  # the tie is left out
    assert (table[""]["other"]["pairs"], table[""]["other"]["unscored"]) == (3, 1)
    assert table["look"]["other"]["accuracy"] == 0.5
    assert table[""]["other"]["difference"] == 0.5 and "difference" not in table[""]["ours"]
    assert table["fit"]["other"] == {"pairs": 0, "prompts": 0, "unscored": 1}


def test_agreement_and_kappa_are_those_counted_by_hand() -> None:
    """Both decide 5 pairs: right/right twice, right/wrong, wrong/right, wrong/wrong; agreement 3/5, both right 3/5."""
    pairs = [LabelledPair(f"p{n}", "1", "2", label) for n, label in enumerate([1, 1, -1, 1, 1, 1, 1, 0])]
    one = np.array([2.0, 1.0, -1.0, -1.0, -1.0, 0.0, 1.0, 1.0])
    other = np.array([1.0, 3.0, 1.0, 1.0, -1.0, 1.0, NAN, 1.0])
    (found,) = tabulate_agreement(pairs, {"one": one, "other": other}, 50, 0)
    assert (found["judge"], found["other"], found["pairs"], found["agreement"]) == ("one", "other", 5, 3 / 5)
    expected = 0.6 * 0.6 + 0.4 * 0.4
    assert found["kappa"] == pytest.approx((0.6 - expected) / (1 - expected))
    assert found["kappa"] == pytest.approx(cohens_kappa([1, 1, 1, 0, 0], [1, 1, 0, 1, 0]))


def cohens_kappa(one: list[int], other: list[int]) -> float:
    """By the definition, category by category."""
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    chance = sum(one.count(c) * other.count(c) for c in (0, 1)) / len(one) ** 2
    return (observed - chance) / (1 - chance)


def test_judges_that_are_always_right_have_no_kappa() -> None:
    pairs = [LabelledPair("p", "1", "2")] * 3
    (found,) = tabulate_agreement(pairs, {"a": np.ones(3), "b": np.ones(3)}, 50, 0)
    assert found["agreement"] == 1 and found["kappa"] is None
    (found,) = tabulate_agreement(pairs, {"a": np.zeros(3), "b": np.ones(3)}, 50, 0)
    assert found == {"judge": "a", "other": "b", "pairs": 0}
