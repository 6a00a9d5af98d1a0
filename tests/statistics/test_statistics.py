"""Statistics against values worked out by hand and against SciPy."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from agfsync.statistics import (
    Interval,
    Mean,
    MeanInference,
    WinShares,
    adjust_holm,
    compute_win_shares,
    correlate_values,
    find_minimum_detectable,
    infer_mean,
    infer_mean_over_seeds,
    infer_win_rate,
    standardise_gains,
    subtract_paired,
)

BASE = [50.0, 60.0, 70.0, 80.0]
ALIGNED = [60.0, 60.0, 65.0, 95.0]


def test_mean_difference_by_hand() -> None:
    assert subtract_paired(BASE, ALIGNED).mean() == (10 + 0 - 5 + 15) / 4


def test_a_mean_of_values_that_come_one_by_one() -> None:
    mean = Mean()
    assert mean.value is None
    for value in (1.0, 2.0, 6.0):
        mean.add(value)
    assert (mean.count, mean.value) == (3, 3.0)


@pytest.mark.parametrize("count", range(1, 6))
def test_fewer_than_six_values_have_no_interval(count: int) -> None:
    assert infer_mean(np.arange(1.0, count + 1), resamples=10, seed=0) == MeanInference(None, None)


def test_a_constant_gain_has_no_width_and_the_sign_tests_p_value() -> None:
    assert infer_mean([2.0] * 8, resamples=100, seed=0) == MeanInference(Interval(2.0, 2.0), 2 / 2**8)
    assert infer_mean([0.0] * 8, resamples=100, seed=0) == MeanInference(Interval(0.0, 0.0), 1.0)


def test_of_many_normal_values_it_is_students_interval() -> None:
    values = np.random.default_rng(1).normal(3, 12, 400)
    interval, p = infer_mean(values, resamples=4_000, seed=0)
    peer = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert interval is not None and p is not None
    assert interval.low == pytest.approx(peer[0], abs=0.08) and interval.low <= peer[0]
    assert interval.high == pytest.approx(peer[1], abs=0.08) and interval.high >= peer[1]
    assert p >= stats.ttest_1samp(values, 0).pvalue


def test_of_many_skewed_values_it_reaches_as_far_as_scipys_bootstrap_t() -> None:
    values = np.random.default_rng(2).exponential(10, 60) - 10
    interval, _ = infer_mean(values, resamples=4_000, seed=0)
    mean, error, draws = values.mean(), stats.sem(values), np.random.default_rng(3)
    drawn = draws.choice(values, (4_000, 60))
    t = (drawn.mean(axis=1) - mean) / stats.sem(drawn, axis=1)
    assert interval is not None
    assert interval.high == pytest.approx(mean - np.quantile(t, 0.025) * error, rel=0.1)
    assert interval.high > stats.t.interval(0.95, 59, mean, error)[1]


def test_values_that_are_nearly_all_ties_have_a_finite_interval() -> None:
    interval, p = infer_mean([0.0] * 30 + [25.0], resamples=1000, seed=0)
    assert interval is not None and p is not None
    assert -10 < interval.low < 0 < interval.high < 10 and p > 0.05


def test_the_p_value_is_below_5_percent_where_the_interval_leaves_0_out() -> None:
    noise = np.random.default_rng(4)
    for seed in range(60):
        interval, p = infer_mean(noise.normal(3, 8, 25), resamples=399, seed=seed)
        assert interval is not None and p is not None
        if abs(p - 0.05) > 0.01:
            assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


def test_inference_is_seeded() -> None:
    values = np.random.default_rng(4).exponential(1, 50)
    first = infer_mean(values, resamples=300, seed=7)
    assert first == infer_mean(values, resamples=300, seed=7)
    assert first != infer_mean(values, resamples=300, seed=8)


def test_bootstrap_memory_is_bounded() -> None:
    """10,000 resamples of 5,000 prompts at once would be 400 MB of indices."""
    values = np.random.default_rng(5).normal(0, 1, 5_000)
    tracemalloc.start()
    infer_mean(values, resamples=1_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20


def test_standardised_gains_have_the_standardised_mean_and_its_uncertainty() -> None:
    """Against a bootstrap of mean / sd that knows nothing of influence functions."""
    noise = np.random.default_rng(6)
    values = noise.exponential(10, 400)
    found = standardise_gains(values)
    assert found is not None
    assert found.mean() == pytest.approx(values.mean() / values.std())
    drawn = noise.choice(values, (2000, 400))
    assert found.std() / 20 == pytest.approx(np.std(drawn.mean(axis=1) / drawn.std(axis=1)), rel=0.1)
    shifted = standardise_gains(7 * values)
    assert shifted == pytest.approx(found)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0] * 30])
def test_what_does_not_vary_cannot_be_standardised(values: list[float]) -> None:
    assert standardise_gains(values) is None


def test_the_minimum_detectable_gain_by_hand() -> None:
    # t(0.975, 99) = 1.98422, t(0.8, 99) = 0.84527
    assert find_minimum_detectable(20.0, 100) == pytest.approx((1.98422 + 0.84527) * 20 / 10, rel=1e-5)
    assert find_minimum_detectable(20.0, 100, alpha=0.05 / 4) > find_minimum_detectable(20.0, 100)  # type: ignore[operator]
    assert find_minimum_detectable(20.0, 5) is None


def test_holm_by_hand() -> None:
    found = adjust_holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None, "e": 0.9})
    assert found == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": None, "e": 0.9})
    assert adjust_holm({}) == {}


def test_wins_ties_and_losses_are_told_apart() -> None:
    shares = compute_win_shares(BASE, ALIGNED)
    assert shares == WinShares(0.5, 0.25, 0.25) and shares.rate == 0.625


@pytest.mark.parametrize(("wins", "count"), [(1, 1), (0, 3), (7, 10), (220, 400)])
def test_without_ties_the_win_rates_interval_is_wilsons(wins: int, count: int) -> None:
    found = infer_win_rate(WinShares(wins / count, 0.0, 1 - wins / count), count)
    peer = stats.binomtest(wins, count).proportion_ci(method="wilson")
    assert found == pytest.approx((peer.low, peer.high), abs=1e-9)


def test_ties_narrow_the_win_rates_interval_but_never_to_nothing() -> None:
    """The demo's oracle: 55 % with 58 % ties over 400 captions; a bootstrap gives 52.0 to 58.3."""
    tied = infer_win_rate(WinShares(0.26, 0.58, 0.16), 400)
    assert tied == pytest.approx((0.519, 0.581), abs=0.003)
    assert infer_win_rate(WinShares(0.55, 0.0, 0.45), 400).low < tied.low
    low, high = infer_win_rate(WinShares(0.0, 1.0, 0.0), 400)
    assert 0.49 < low < 0.5 < high < 0.51
    assert infer_win_rate(WinShares(0.0, 1.0, 0.0), 1) != (0.5, 0.5)


def test_correlation_agrees_with_scipy() -> None:
    noise = np.random.default_rng(6)
    x = noise.normal(0, 1, 100)
    y = 0.5 * x + noise.normal(0, 1, 100)
    assert correlate_values(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)


def test_correlation_by_hand() -> None:
    assert correlate_values([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlate_values([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0])])
def test_correlation_is_none_where_it_is_not_defined(x: list[float], y: list[float]) -> None:
    assert correlate_values(x, y) is None


@pytest.mark.parametrize(("base", "aligned"), [([], []), ([1.0], [1.0, 2.0])])
def test_nothing_to_compare_is_an_error(base: list[float], aligned: list[float]) -> None:
    for compare in (compute_win_shares, subtract_paired):
        with pytest.raises(ValueError, match="prompts|paired"):
            compare(base, aligned)


def test_unpaired_correlation_and_no_resamples_are_errors() -> None:
    with pytest.raises(ValueError, match="paired"):
        correlate_values([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="resample"):
        infer_mean([1.0], resamples=0, seed=0)


def test_the_mean_over_crossed_seeds_by_hand() -> None:
    # Only the seeds differ: the error is that of their two means, with one degree of freedom.
    rows = [[1.0] * 6, [3.0] * 6]
    interval, p = infer_mean_over_seeds(rows, resamples=200, seed=0, crossed=True)
    reach = stats.t.ppf(0.975, 1) * 1.0  # sd sqrt(2) over sqrt(2)
    assert interval is not None and interval == pytest.approx((2 - reach, 2 + reach))
    assert p is not None and p >= stats.ttest_1samp([1.0, 3.0], 0).pvalue - 1e-9


def test_equal_seeds_of_the_same_prompts_have_the_spread_of_the_prompts() -> None:
    values = np.random.default_rng(3).normal(1, 5, 200)
    interval, _ = infer_mean_over_seeds([values, values, values], resamples=2_000, seed=0, crossed=True)
    peer = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert interval is not None and interval == pytest.approx(peer, abs=0.1)
    assert infer_mean_over_seeds([values], 100, 0, crossed=True) == infer_mean(values, 100, 0)


@pytest.mark.parametrize("crossed", [True, False])
@pytest.mark.parametrize("spread", [0.0, 2.0, 8.0])
def test_the_interval_over_three_seeds_holds_the_truth(crossed: bool, spread: float) -> None:
    rng, held = np.random.default_rng(5), 0
    for number in range(200):
        seeds, prompts = rng.normal(0, spread, (3, 1)), rng.normal(0, 10, (1 if crossed else 3, 30))
        values = seeds + prompts + rng.normal(0, 5, (3, 30))
        interval, _ = infer_mean_over_seeds(list(values), resamples=100, seed=number, crossed=crossed)
        held += interval is not None and interval.low <= 0 <= interval.high
    assert held >= 180


def test_seeds_that_cant_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        infer_mean_over_seeds([[1.0, 2.0], [1.0]], 10, 0, crossed=True)
    with pytest.raises(ValueError, match="needs a seed"):
        infer_mean_over_seeds([], 10, 0, crossed=True)
    assert infer_mean_over_seeds([[1.0] * 5, [2.0] * 5], 10, 0, crossed=False) == MeanInference(None, None)
