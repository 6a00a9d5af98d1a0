"""The calibration of judges on yes/no questions with known true answers: pure functions.

Shapes: N answers, G images, B bins, R resamples.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agfsync.statistics import CONFIDENCE, FEWEST_FOR_INTERVAL, Interval, infer_mean
from agfsync.statistics.accuracy import Numbers, describe_accuracy, sum_by_prompt

BINS = 10
"""The number of bins of equal width on 0..1."""

_CELLS = 1 << 20
"""The number of weights that the bootstrap draws at a time."""


class KnownAnswer(NamedTuple):
    """A judge's P(yes) for a question on an image, and the true answer; `image` is the image's key."""

    image: str
    element_type: str
    truth: bool
    p_yes: float


class OpposedAnswers(NamedTuple):
    """P(yes) for a question on an image and for the opposite question; the true answer to exactly one is yes."""

    image: str
    p_yes: float
    p_opposite: float


def describe_answers(answers: Sequence[KnownAnswer], resamples: int, seed: int) -> dict[str, Any]:
    """Return the figures of a judge's answers as JSON values; an answer is yes if P(yes) is above one half.

    `questions` and `images` are counts. `right` is the share of right answers; `yes_where_no` is the share of yes among
    the questions with the true answer no, and `no_where_yes` the reverse; `ece` is `compute_calibration_error`. These
    four have the ends NAME_low and NAME_high of their 95 % intervals over images. `brier` is the mean of
    (P(yes) - truth)^2, and `curve` is `make_reliability_curve`. `types` has the shares for each element type. A share
    without questions is None, and so are the ends of an interval if there are too few images.
    """
    images, p_N = [each.image for each in answers], np.array([each.p_yes for each in answers])
    true_N = np.array([each.truth for each in answers], np.bool_)
    low, high = infer_calibration_error(images, true_N, p_N, resamples, seed) or (None, None)
    types = sorted({each.element_type for each in answers})
    return {
        **_describe_shares(answers, resamples, seed),
        "ece": compute_calibration_error(true_N, p_N),
        "ece_low": low,
        "ece_high": high,
        "brier": float(np.square(p_N - true_N).mean()) if len(p_N) else None,
        "curve": make_reliability_curve(true_N, p_N),
        "types": {t: _describe_shares([a for a in answers if a.element_type == t], resamples, seed) for t in types},
    }


def _describe_shares(answers: Sequence[KnownAnswer], resamples: int, seed: int) -> dict[str, Any]:
    images = [each.image for each in answers]
    shares = {
        "right": [float((a.p_yes > 0.5) == a.truth) for a in answers],
        "yes_where_no": [math.nan if a.truth else float(a.p_yes > 0.5) for a in answers],
        "no_where_yes": [float(a.p_yes <= 0.5) if a.truth else math.nan for a in answers],
    }
    figures: dict[str, Any] = {"questions": len(answers), "images": len(set(images))}
    for name, credits in shares.items():
        of = describe_accuracy(images, np.array(credits), resamples, seed)
        figures |= {name: of.get("accuracy"), f"{name}_low": of.get("low"), f"{name}_high": of.get("high")}
    return figures


def make_reliability_curve(truths: Sequence[bool] | NDArray[np.bool_], p_yes: Sequence[float] | Numbers) -> list[Any]:
    """Return the non-empty ones of ten equal bins of P(yes): `questions`, their mean `p_yes`, the true share of `yes`.

    >>> make_reliability_curve([False, True, True], [0.25, 0.9375, 1.0])[1]
    {'low': 0.9, 'high': 1.0, 'questions': 2, 'p_yes': 0.96875, 'yes': 1.0}
    """
    p_N, true_N = np.asarray(p_yes, np.float64), np.asarray(truths, np.float64)
    bins_N = _find_bins(p_N)
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "questions": int((bins_N == b).sum()),
            "p_yes": float(p_N[bins_N == b].mean()),
            "yes": float(true_N[bins_N == b].mean()),
        }
        for b in sorted(set(bins_N.tolist()))
    ]


def compute_calibration_error(truths: NDArray[np.bool_], p_yes: Numbers) -> float | None:
    """Return the expected calibration error (Naeini et al. 2015), in 0..1; None without answers.

    It is the mean over answers of |mean P(yes) - true share of yes| in the answer's bin.
    """
    gaps_N, bins_N = np.asarray(p_yes, np.float64) - truths, _find_bins(p_yes)
    return float(np.abs(np.bincount(bins_N, gaps_N, BINS)).sum() / len(gaps_N)) if len(gaps_N) else None


def infer_calibration_error(
    images: Sequence[str], truths: NDArray[np.bool_], p_yes: Numbers, resamples: int, seed: int
) -> Interval | None:
    """Return the interval of the expected calibration error from a bootstrap over images; None for too few images.

    It is the basic bootstrap interval, 2 x error - quantiles. The absolute values bias the error of a sample upwards,
    and that of a resample again by about the same amount: the basic interval subtracts this bias, while percentiles
    would double it. The interval starts at 0 unless the error is above the 97.5 % quantile of the errors that
    resampling noise alone causes: below it, the judge may be calibrated.
    """
    keys = {image: row for row, image in enumerate(dict.fromkeys(images))}
    if len(keys) < FEWEST_FOR_INTERVAL:
        return None
    rows_N, bins_N = np.array([keys[image] for image in images]), _find_bins(p_yes)
    gaps_GB, counts_G = np.zeros((len(keys), BINS)), np.bincount(rows_N, minlength=len(keys))
    np.add.at(gaps_GB, (rows_N, bins_N), p_yes - truths)
    gaps_B = gaps_GB.sum(0) / counts_G.sum()
    draws, chunk = np.random.default_rng(seed), max(1, _CELLS // len(keys))
    errors, noises = list[float](), list[float]()
    for start in range(0, resamples, chunk):
        weights_RG = draws.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), min(chunk, resamples - start))
        gaps_RB = weights_RG @ gaps_GB / (weights_RG @ counts_G)[:, None]
        errors += np.abs(gaps_RB).sum(1).tolist()
        noises += np.abs(gaps_RB - gaps_B).sum(1).tolist()
    error, tail = float(np.abs(gaps_B).sum()), (1 - CONFIDENCE) / 2
    low, high = (min(1.0, max(0.0, 2 * error - float(q))) for q in np.quantile(errors, [1 - tail, tail]))
    return Interval(low if error > np.quantile(noises, 1 - tail) else 0.0, high)


def describe_yes_bias(couples: Sequence[OpposedAnswers], resamples: int, seed: int) -> dict[str, Any]:
    """Return the figures of questions that were also asked as their opposite.

    `couples` is their number. `both_yes` and `both_no` are the shares of couples with these answers, each of which is a
    contradiction. `bias` is `both_yes` - `both_no`, in -1..1, with the ends `low` and `high` of its 95 % interval over
    images. It is above 0 for a judge that tends to say yes.
    """
    if not couples:
        return {"couples": 0}
    signed_N = np.array([float(c.p_yes > 0.5) + float(c.p_opposite > 0.5) - 1 for c in couples])
    by_image = sum_by_prompt([couple.image for couple in couples], signed_N)
    low, high = infer_mean(by_image.influence_Q, resamples, seed).interval or (None, None)
    both = {"both_yes": float((signed_N > 0).mean()), "both_no": float((signed_N < 0).mean())}
    return {"couples": len(couples), **both, "bias": float(signed_N.mean()), "low": low, "high": high}


def _find_bins(p_yes: Numbers) -> NDArray[np.int64]:
    bins: NDArray[np.int64] = np.minimum(np.asarray(p_yes) * BINS, BINS - 1).astype(np.int64)
    return bins
