"""Evaluations of made-up models: what judges would say of a model that isn't better, or is by a known amount."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from agfsync.formats import Selector
from agfsync.recipe import Recipe, check_recipe
from agfsync.recipe.recipe import SHAPES_SCORERS
from agfsync.records import Comparison
from agfsync.stages.evaluation.comparing import summarise_comparisons
from agfsync.stages.report.verdict import Alarm, Standing, Verdict, find_alarms, rank_judges, reach_verdict
from agfsync.stages.selection import list_choosing_scorers

SCORERS = ("vqa", "clip", "aesthetic")
TIES = 0.58
"""The share of captions on which the demo's judges call both images equal."""


def questions(draws: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Differences of a judge that asks 2 to 8 questions: 58 % ties, else some of them turned, up as often as down."""
    asked = draws.integers(2, 9, count)
    turned = np.minimum(draws.geometric(0.5, count), asked)
    signs = draws.choice([-1.0, 1.0], count)
    return np.where(draws.random(count) < TIES, 0.0, 100 * turned / asked * signs)


def embedding(draws: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Differences of a judge that compares embeddings: long tails, and ties where the images are the same."""
    return np.where(draws.random(count) < 0.25, 0.0, draws.laplace(0, 12, count)).clip(-100, 100)


def skewed(draws: np.random.Generator, count: int) -> NDArray[np.float64]:
    """58 % ties, small gains, and half as many losses that are twice as large: the mean is 0, the shape isn't even."""
    gains, losses = np.array([12.5, 50 / 3, 20, 25, 100 / 3]), -np.array([25, 100 / 3, 50, 200 / 3])
    chance = (1 - TIES) * gains.mean() / (gains.mean() - losses.mean())
    kind = draws.random(count)
    moved = np.where(kind < TIES + chance, draws.choice(losses, count), draws.choice(gains, count))
    return np.where(kind < TIES, 0.0, moved)


KINDS = {"questions": questions, "embedding": embedding, "skewed": skewed}


@dataclass(frozen=True)
class Evaluated:
    """What the report would say of one evaluation."""

    summary: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    judged: Sequence[Standing]
    verdict: Verdict
    alarms: Sequence[Alarm]

    @property
    def is_hacked(self) -> bool:
        return any("Reward hacking" in alarm.title for alarm in self.alarms)


@cache
def spread_of(kind: str) -> float:
    """The standard deviation of a judge's differences."""
    return float(KINDS[kind](np.random.default_rng(0), 100_000).std())


@cache
def recipe_with(judges: tuple[str, ...]) -> tuple[Recipe, list[Selector]]:
    """A recipe with the demo's scorers and these judges, and what it selects by."""
    recipe = check_recipe({"scorers": SHAPES_SCORERS | {each: {"type": "shapes-oracle"} for each in judges}}, "")
    return recipe, list_choosing_scorers(recipe)


def evaluate(
    draws: np.random.Generator,
    count: int,
    gains: Mapping[str, float],
    *,
    kind: str = "questions",
    categories: int = 1,
    resamples: int = 199,
    alike: float = 0.5,
) -> Evaluated:
    """Evaluate a model on `count` captions. `gains` are the true ones, in standard deviations, of each judge; those
    that aren't the demo's scorers are independent. Judges agree on a share `alike` of the captions.
    """
    make = KINDS[kind]
    common, rows = make(draws, count), []
    for judge, gain in gains.items():
        own = np.where(draws.random(count) < alike, common, make(draws, count)) + gain * spread_of(kind)
        rows += [
            Comparison(
                f"{judge} {n}", "held-out", f"c{n}", f"category {n % categories}", judge, "", 50 - d / 2, 50 + d / 2
            )
            for n, d in enumerate(own.tolist())
        ]
    summary = summarise_comparisons(rows, resamples, int(draws.integers(2**31)))
    recipe, selectors = recipe_with(tuple(judge for judge in gains if judge not in SCORERS))
    judged = rank_judges(summary["judges"], recipe, selectors)
    return Evaluated(summary, judged, reach_verdict(judged), find_alarms(judged, summary["contrasts"]))
