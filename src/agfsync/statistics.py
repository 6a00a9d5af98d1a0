"""Arithmetic on scores: win rate, mean difference with its paired bootstrap interval, correlation. Pure NumPy.

Shapes: N values of one judge on N prompts, base and aligned in the same order, so that every comparison is paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.float64]

_CELLS = 1 << 20
"""Values drawn at a time by the bootstrap: bounds its memory to some 16 MB whatever the number of prompts."""


class Interval(NamedTuple):
    """An interval of confidence, `low` <= `high`."""

    low: float
    high: float


@dataclass(slots=True)
class Mean:
    """The mean of values that come one after the other."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    @property
    def value(self) -> float | None:
        """None without any."""
        return self.total / self.count if self.count else None


def win_rate(base: Values, aligned: Values) -> float:
    """Share in 0..1 of the prompts on which `aligned` beats `base`; a tie counts one half.

    Raises:
        ValueError: no prompts, or different numbers of them.
    """
    difference_N = _differences(base, aligned)
    return float(np.mean((np.sign(difference_N) + 1) / 2))


def mean_difference(base: Values, aligned: Values) -> float:
    """Mean of `aligned` - `base`, in the values' own unit.

    Raises:
        ValueError: no prompts, or different numbers of them.
    """
    return float(np.mean(_differences(base, aligned)))


def paired_bootstrap(base: Values, aligned: Values, resamples: int, seed: int, confidence: float = 0.95) -> Interval:
    """Percentile interval of the mean difference, prompts resampled with replacement as pairs.

    The same `seed` gives the same interval. With one prompt there is nothing to resample: the interval has no width.

    Raises:
        ValueError: no prompts, different numbers of them, or no resamples.
    """
    difference_N = _differences(base, aligned)
    if resamples < 1:
        raise ValueError(f"a bootstrap needs at least one resample, got {resamples}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(difference_N, resamples, seed), [tail, 1 - tail])
    return Interval(float(low), float(high))


def correlation(x: Values, y: Values) -> float | None:
    """Pearson's r in -1..1; None where it isn't defined: fewer than two values, or one side constant.

    Raises:
        ValueError: different numbers of values.
    """
    x_N, y_N = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x_N.shape != y_N.shape:
        raise ValueError(f"values must be paired, got {x_N.size} and {y_N.size}")
    if x_N.size < 2 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    r = x_N @ y_N / np.sqrt((x_N @ x_N) * (y_N @ y_N))
    return float(np.clip(r, -1, 1))


def _differences(base: Values, aligned: Values) -> NDArray[np.float64]:
    base_N, aligned_N = np.asarray(base, np.float64), np.asarray(aligned, np.float64)
    if base_N.shape != aligned_N.shape or base_N.ndim != 1:
        raise ValueError(f"values must be paired, got shapes {base_N.shape} and {aligned_N.shape}")
    if not base_N.size:
        raise ValueError("there are no prompts to compare on")
    return aligned_N - base_N


def _resampled_means(values_N: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of `resamples` draws of N out of `values_N`, shape (resamples,), drawn in chunks of bounded memory."""
    draws = np.random.default_rng(seed)
    count = values_N.size
    chunk = max(1, _CELLS // count)
    means_R = np.empty(resamples)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        means_R[start : start + rows] = values_N[draws.integers(0, count, (rows, count))].mean(axis=1)
    return means_R
