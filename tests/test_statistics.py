"""Statistics against values worked out by hand and against SciPy."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from agfsync.statistics import Interval, Mean, correlation, mean_difference, paired_bootstrap, win_rate

BASE = [50.0, 60.0, 70.0, 80.0]
ALIGNED = [60.0, 60.0, 65.0, 95.0]


def test_win_rate_counts_a_tie_one_half() -> None:
    assert win_rate(BASE, ALIGNED) == (1 + 0.5 + 0 + 1) / 4


def test_win_rate_of_equal_values_is_one_half() -> None:
    assert win_rate(BASE, BASE) == 0.5


def test_mean_difference_by_hand() -> None:
    assert mean_difference(BASE, ALIGNED) == (10 + 0 - 5 + 15) / 4


def test_a_mean_of_values_that_come_one_by_one() -> None:
    mean = Mean()
    assert mean.value is None
    for value in (1.0, 2.0, 6.0):
        mean.add(value)
    assert (mean.count, mean.value) == (3, 3.0)


def test_bootstrap_of_two_prompts_by_hand() -> None:
    """Means of two draws out of {0, 10} are 0, 5, 10 with chances 1/4, 1/2, 1/4: both tails lie at the ends."""
    assert paired_bootstrap([0, 0], [0, 10], resamples=4000, seed=0) == Interval(0.0, 10.0)


def test_bootstrap_of_a_constant_gain_has_no_width() -> None:
    assert paired_bootstrap([1.0, 2.0, 3.0], [3.0, 4.0, 5.0], resamples=100, seed=0) == Interval(2.0, 2.0)


def test_bootstrap_agrees_with_scipy() -> None:
    noise = np.random.default_rng(1)
    base = noise.normal(60, 15, 200)
    aligned = base + noise.normal(3, 12, 200)
    low, high = paired_bootstrap(base, aligned, resamples=20_000, seed=0)
    peer = stats.bootstrap(
        (aligned - base,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert low == pytest.approx(peer.low, abs=0.06)
    assert high == pytest.approx(peer.high, abs=0.06)
    assert low < mean_difference(base, aligned) < high


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(3)
    runs = [noise.normal(1.0, 2.0, 60) for _ in range(200)]
    intervals = [paired_bootstrap(np.zeros(60), run, resamples=500, seed=i) for i, run in enumerate(runs)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.99


def test_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(4).normal(0, 1, 50)
    first = paired_bootstrap(np.zeros(50), values, resamples=300, seed=7)
    assert first == paired_bootstrap(np.zeros(50), values, resamples=300, seed=7)
    assert first != paired_bootstrap(np.zeros(50), values, resamples=300, seed=8)


def test_bootstrap_memory_is_bounded() -> None:
    """10,000 resamples of 5,000 prompts at once would be 400 MB of indices."""
    values = np.random.default_rng(5).normal(0, 1, 5_000)
    tracemalloc.start()
    paired_bootstrap(np.zeros(5_000), values, resamples=1_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_correlation_agrees_with_scipy() -> None:
    noise = np.random.default_rng(6)
    x = noise.normal(0, 1, 100)
    y = 0.5 * x + noise.normal(0, 1, 100)
    assert correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)


def test_correlation_by_hand() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0])])
def test_correlation_is_none_where_it_is_not_defined(x: list[float], y: list[float]) -> None:
    assert correlation(x, y) is None


@pytest.mark.parametrize(("base", "aligned"), [([], []), ([1.0], [1.0, 2.0])])
def test_nothing_to_compare_is_an_error(base: list[float], aligned: list[float]) -> None:
    for compare in (win_rate, mean_difference):
        with pytest.raises(ValueError, match="prompts|paired"):
            compare(base, aligned)
    with pytest.raises(ValueError, match="prompts|paired"):
        paired_bootstrap(base, aligned, resamples=10, seed=0)


def test_unpaired_correlation_and_no_resamples_are_errors() -> None:
    with pytest.raises(ValueError, match="paired"):
        correlation([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="resample"):
        paired_bootstrap([1.0], [2.0], resamples=0, seed=0)
