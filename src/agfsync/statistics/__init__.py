"""Arithmetic on scores: mean differences, win rates, their intervals and p-values, Holm's correction, correlation.

Shapes: N values of one judge on N prompts, base and aligned in the same order, so that every comparison is paired; R
resamples. docs/evaluation.md has the measured error rates of these methods.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

Values = Sequence[float] | NDArray[np.float64]
K = TypeVar("K", bound=Hashable)

CONFIDENCE = 0.95
"""The confidence of every interval; 1 - CONFIDENCE is the rate of false findings, half in each direction."""
FEWEST_FOR_INTERVAL = 6
"""The fewest prompts for an interval. With 5, all values of two equal models rise or all fall in 1 of 16 comparisons,
which is more than 5 % for any method."""
FEWEST_FOR_VERDICT = 20
"""The fewest prompts for a verdict of better or worse: with fewer, rare large losses may not have occurred yet."""

_CELLS = 1 << 20
"""The number of values that the bootstrap draws at a time: it limits the memory to about 16 MB for any number of
prompts."""


class Interval(NamedTuple):
    """A confidence interval, `low` <= `high`."""

    low: float
    high: float


@dataclass(slots=True)
class Mean:
    """The running mean of values."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self.count += 1
        self.total += value

    @property
    def value(self) -> float | None:
        """The mean; None if there are no values."""
        return self.total / self.count if self.count else None


class MeanInference(NamedTuple):
    """An inference on the mean of a population from a sample; both fields are None if the sample is too small."""

    interval: Interval | None
    p: float | None
    """the two-sided p-value of a true mean of 0"""


class WinShares(NamedTuple):
    """The shares of prompts on which the aligned model scores higher, the same and lower, in 0..1; they sum to 1."""

    better: float
    equal: float
    worse: float

    @property
    def rate(self) -> float:
        """The win rate: a tie counts one half."""
        return self.better + self.equal / 2


def subtract_paired(base: Values, aligned: Values) -> NDArray[np.float64]:
    """Return `aligned` - `base`, float64 (N,).

    Raises:
        ValueError: there are no prompts, or the numbers of prompts differ.
    """
    base_N, aligned_N = np.asarray(base, np.float64), np.asarray(aligned, np.float64)
    if base_N.shape != aligned_N.shape or base_N.ndim != 1:
        raise ValueError(f"values must be paired, got shapes {base_N.shape} and {aligned_N.shape}")
    if not base_N.size:
        raise ValueError("there are no prompts to compare on")
    return aligned_N - base_N


def infer_mean(values: Values, resamples: int, seed: int, confidence: float = CONFIDENCE) -> MeanInference:
    """Return the interval of the mean of `values` and the p-value of a mean of 0; equal seeds give equal results.

    Each end of the interval is the wider one of Student's t and of the bootstrap-t (Efron and Tibshirani 1993, 12.5):
    the former keeps its error rate if values are few, tied and symmetric, the latter if they are many and skewed. The
    p-value is the larger one of both, and at least 2^(1 - N), the smallest p-value of a sign-flip test. It is also at
    least 2 / (resamples + 1). If all values are equal, the interval has no width.

    Raises:
        ValueError: `resamples` is below 1.
    """
    values_N = np.asarray(values, np.float64)
    if resamples < 1:
        raise ValueError(f"a bootstrap needs at least one resample, got {resamples}")
    count = values_N.size
    if count < FEWEST_FOR_INTERVAL:
        return MeanInference(None, None)
    mean, least = float(values_N.mean()), 2.0 ** (1 - count)
    if np.ptp(values_N) <= 1e-12 * np.abs(values_N).max():
        return MeanInference(Interval(mean, mean), 1.0 if mean == 0 else least)
    error, tail = float(values_N.std(ddof=1)) / math.sqrt(count), (1 - confidence) / 2
    t_R = _resampled_t(values_N, resamples, seed)
    reach = float(stdtrit(count - 1, 1 - tail))
    below, above = np.quantile(t_R, [tail, 1 - tail])
    interval = Interval(mean - max(reach, float(above)) * error, mean + max(reach, float(-below)) * error)
    t = mean / error
    beyond = int(np.sum(t_R >= t) if t > 0 else np.sum(t_R <= t))
    p = max(2 * float(stdtr(count - 1, -abs(t))), 2 * (1 + beyond) / (resamples + 1), least)
    return MeanInference(interval, min(1.0, p))


def infer_mean_over_seeds(
    values: Sequence[Values], resamples: int, seed: int, *, crossed: bool, confidence: float = CONFIDENCE
) -> MeanInference:
    """Return the interval and the p-value of the mean over seeds and prompts; an equal `seed` gives equal results.

    Each end of the interval is the wider one of Student's t and of the percentiles of a hierarchical bootstrap, which
    resamples seeds and prompts; the p-value is the larger one of both. The squared standard error of Student's t is
    V = A / S + B / N for crossed seeds, and A / S + B / (S N) if each seed has its own prompts. A is the variance of
    the seeds' means, and B the variance of the prompts' means, or of the values within a seed if it has its own
    prompts. The degrees of freedom are Satterthwaite's. The noise of single values is in both terms, so that V is too
    large rather than too small. The bootstrap multiplies the seeds' deviations from the mean by sqrt(S / (S - 1)),
    since the deviations of few seeds underestimate their spread. For a single seed the result is that of `infer_mean`,
    which doesn't generalise to other seeds.

    Args:
        values: S seeds, each with its N values on the prompts.
        crossed: True if all seeds have the same prompts in the same order; False if each has its own.

    Raises:
        ValueError: there are no seeds, `resamples` is below 1, or crossed seeds have different numbers of prompts.
    """
    rows = [np.asarray(row, np.float64) for row in values]
    if not rows or resamples < 1:
        raise ValueError("a mean over seeds needs a seed and a resample")
    if crossed and len({row.size for row in rows}) > 1:
        raise ValueError(f"crossed seeds have the same prompts, got {[row.size for row in rows]}")
    if len(rows) == 1:
        return infer_mean(rows[0], resamples, seed, confidence)
    if min(row.size for row in rows) < FEWEST_FOR_INTERVAL:
        return MeanInference(None, None)
    means_S = np.array([row.mean() for row in rows])
    mean, draws = float(means_S.mean()), np.random.default_rng(seed)
    inner = [np.mean(rows, axis=0) - mean] if crossed else [row - row.mean() for row in rows]
    terms = [float(means_S.var(ddof=1)) / len(rows)]
    terms += [float(each_N.var(ddof=1)) / each_N.size / len(inner) ** 2 for each_N in inner]
    freedoms = [len(rows) - 1, *(each_N.size - 1 for each_N in inner)]
    error = math.sqrt(sum(terms))
    if error <= 1e-12 * max(float(np.abs(row).max()) for row in rows):
        return MeanInference(Interval(mean, mean), 1.0 if mean == 0 else 2.0 ** (1 - max(r.size for r in rows)))
    freedom = sum(terms) ** 2 / sum(term**2 / df for term, df in zip(terms, freedoms, strict=True))
    scale = math.sqrt(len(rows) / (len(rows) - 1))
    shift_R = scale * _resample_means(means_S - mean, resamples, draws)
    shift_R += np.sum([_resample_means(each_N, resamples, draws) for each_N in inner], axis=0) / len(inner)
    tail = (1 - confidence) / 2
    reach = float(stdtrit(freedom, 1 - tail)) * error
    below, above = np.quantile(shift_R, [tail, 1 - tail])
    beyond = int(np.sum(shift_R >= abs(mean)) if mean < 0 else np.sum(shift_R <= -abs(mean)))
    p = max(2 * float(stdtr(freedom, -abs(mean) / error)), 2 * (1 + beyond) / (resamples + 1))
    return MeanInference(Interval(mean + min(-reach, float(below)), mean + max(reach, float(above))), min(1.0, p))


def standardise_gains(difference: Values) -> NDArray[np.float64] | None:
    """Return N values with the mean of `difference` in units of its standard deviation; None if all are equal.

    This makes judges with different scales comparable.

    The values are the estimate plus its influence function, z + u - z (u^2 - 1) / 2 with u = (d - mean) / sd and
    z = mean / sd, so that their spread includes the uncertainty of the standard deviation.
    """
    difference_N = np.asarray(difference, np.float64)
    if difference_N.size < 2 or np.ptp(difference_N) <= 1e-12 * np.abs(difference_N).max():
        return None
    mean, spread = difference_N.mean(), difference_N.std()
    u_N, z = (difference_N - mean) / spread, mean / spread
    standardised_N: NDArray[np.float64] = z + u_N - z * (np.square(u_N) - 1) / 2
    return standardised_N


def find_minimum_detectable(
    spread: float, count: int, alpha: float = 1 - CONFIDENCE, power: float = 0.8
) -> float | None:
    """Return the smallest mean difference that `count` prompts detect; None below `FEWEST_FOR_INTERVAL` prompts.

    It is detected at the two-sided level `alpha` in a share `power` of the runs if the differences have the standard
    deviation `spread`: (t_{1 - alpha/2} + t_power) spread / sqrt(count), with count - 1 degrees of freedom.
    """
    if count < FEWEST_FOR_INTERVAL:
        return None
    reach = float(stdtrit(count - 1, 1 - alpha / 2) + stdtrit(count - 1, power))
    return reach * spread / math.sqrt(count)


def adjust_holm(p_values: Mapping[K, float | None]) -> dict[K, float | None]:
    """Return the p-values corrected for their number (Holm 1979). None, an untested entry, stays None.

    The family-wise error rate is at most the level, for any dependence between the values.
    """
    ranked = sorted(((key, p) for key, p in p_values.items() if p is not None), key=lambda each: each[1])
    adjusted: dict[K, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (key, p) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - rank) * p))
        adjusted[key] = largest
    return adjusted


def compute_win_shares(base: Values, aligned: Values) -> WinShares:
    """Return the shares of prompts on which `aligned` is above, equal to and below `base`.

    Raises:
        ValueError: there are no prompts, or the numbers of prompts differ.
    """
    difference_N = subtract_paired(base, aligned)
    better, worse = float(np.mean(difference_N > 0)), float(np.mean(difference_N < 0))
    return WinShares(better, float(np.mean(difference_N == 0)), worse)


def infer_win_rate(shares: WinShares, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's score interval of the win rate over `count` prompts, in 0..1, narrowed by the ties.

    A tie counts as half a win, so that a prompt's win has the variance p (1 - p) - e / 4, with e the share of ties. The
    ends solve (rate - p)^2 = z^2 / N (p (1 - p) - e / 4), which is Wilson's equation if there are no ties. e is the
    number of ties over N + z^2, so that it stays below 1.
    """
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    ties = shares.equal * count / (count + z2)
    # (1 + k) p^2 - (2 rate + k) p + rate^2 + k ties / 4 = 0 with k = z^2 / N
    k, rate = z2 / count, shares.rate
    middle = (2 * rate + k) / (2 * (1 + k))
    reach = math.sqrt(max(0.0, middle**2 - (rate**2 + k * ties / 4) / (1 + k)))
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach))


def correlate_values(x: Values, y: Values) -> float | None:
    """Return Pearson's r in -1..1; None if it is undefined: fewer than two values, or `x` or `y` is constant.

    Raises:
        ValueError: the numbers of values differ.
    """
    x_N, y_N = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x_N.shape != y_N.shape:
        raise ValueError(f"values must be paired, got {x_N.size} and {y_N.size}")
    if x_N.size < 2 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    r = x_N @ y_N / np.sqrt((x_N @ x_N) * (y_N @ y_N))
    return float(np.clip(r, -1, 1))


def _resample_means(values_N: NDArray[np.float64], resamples: int, draws: np.random.Generator) -> NDArray[np.float64]:
    """Return the means of `resamples` resamples of `values_N`, float64 (R,), drawn in chunks of bounded memory."""
    chunk = max(1, _CELLS // values_N.size)
    parts = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    return np.concatenate([values_N[draws.integers(0, values_N.size, (p, values_N.size))].mean(axis=1) for p in parts])


def _resampled_t(values_N: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return Student's t of `resamples` resamples of `values_N` against the mean of `values_N`, float64 (R,).

    For a resample of equal values, the spread of `values_N` is used. Resamples are drawn in chunks of bounded memory.
    """
    draws, count = np.random.default_rng(seed), values_N.size
    centred_N = values_N - values_N.mean()
    spread, none = float(centred_N.std(ddof=1)), 1e-12 * float(np.square(centred_N).max())
    chunk = max(1, _CELLS // count)
    t_R = np.empty(resamples)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn_RN = centred_N[draws.integers(0, count, (rows, count))]
        mean_R = drawn_RN.mean(axis=1)
        variance_R = np.einsum("rn,rn->r", drawn_RN, drawn_RN) / count - np.square(mean_R)
        spread_R = np.where(variance_R > none, np.sqrt(np.maximum(variance_R, none) * count / (count - 1)), spread)
        t_R[start : start + rows] = mean_R / (spread_R / math.sqrt(count))
    return t_R
