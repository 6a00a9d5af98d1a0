"""Normalisation of each judge's scores before a choice: z-scores or ranks, over a caption or the run.

Raw scales matter more than weights: with equal weights, the judge with the widest spread chooses nearly alone.
"""

import hashlib
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from agfsync.choices import CandidateScores

Normalisation = Literal["z-score", "rank"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A judge's sorted scores, with their mean and their population standard deviation."""

    ordered: "array[float]"
    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return the spread of `values`, in any order; there may be millions, so they are kept as plain floats."""
        ordered = array("d", np.sort(np.fromiter(values, np.float64)).tobytes())
        if not ordered or ordered[0] == ordered[-1]:
            return cls(ordered, ordered[0] if ordered else 0.0, 0.0)
        mean = math.fsum(ordered) / len(ordered)
        return cls(ordered, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)))

    def find_z_score(self, value: float) -> float:
        """Return (value - mean) / deviation; 0 if all scores are equal."""
        return (value - self.mean) / self.deviation if self.deviation else 0.0

    def find_rank(self, value: float) -> float:
        """Return the share of the other scores that `value`, one of the scores, beats, in 0..100; a tie is one half.

        >>> spread = Spread.of([1.0, 2.0, 2.0, 9.0])
        >>> spread.find_rank(1.0), spread.find_rank(2.0), spread.find_rank(9.0)
        (0.0, 50.0, 100.0)
        """
        below, up_to = bisect_left(self.ordered, value), bisect_right(self.ordered, value)
        others = len(self.ordered) - 1
        return 100 * (below + max(0, up_to - below - 1) / 2) / others if others > 0 else 50.0


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Replaces each judge's scores by their z-scores or ranks. A missing score stays missing.

    Args:
        by: z-score or rank.
        spreads: each judge's scores in the whole run; None to use those of the same caption.
    """

    by: Normalisation
    spreads: Mapping[str, Spread] | None = None

    def normalise(self, values: Mapping[str, CandidateScores]) -> dict[str, dict[str, float | None]]:
        """Return the normalised scores of a caption, by candidate."""
        spreads = measure_spreads(values) if self.spreads is None else self.spreads
        place = Spread.find_rank if self.by == "rank" else Spread.find_z_score
        return {
            key: {judge: None if value is None else place(spreads[judge], value) for judge, value in of.items()}
            for key, of in values.items()
        }

    @property
    def identity(self) -> list[Any]:
        """The values that the result depends on, in addition to a caption's own scores, as JSON values."""
        if self.spreads is None:
            return [self.by, "caption"]
        return [self.by, "run", {judge: self._identify(spread) for judge, spread in self.spreads.items()}]

    def _identify(self, spread: Spread) -> Any:
        if self.by == "z-score":
            return [spread.mean, spread.deviation]
        return hashlib.blake2b(np.asarray(spread.ordered, "<f8").tobytes(), digest_size=8).hexdigest()


def measure_spreads(values: Mapping[str, CandidateScores]) -> dict[str, Spread]:
    """Return the spread of each judge's scores for the candidates of a caption."""
    by_judge: dict[str, list[float]] = {}
    for of in values.values():
        for judge, value in of.items():
            known = by_judge.setdefault(judge, [])
            if value is not None:
                known.append(value)
    return {judge: Spread.of(known) for judge, known in by_judge.items()}
