"""Choices: rules that make preference pairs from a caption's scored candidates, one file each.

A choice is a class in the catalog's "choices"; its fields are its settings in the recipe's `pairs.choose`.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

CandidateScores = Mapping[str, float | None]
"""Scorer -> its score of a candidate, in 0..100 unless normalised; None if it gave no score."""

UNSCORED, TOO_FEW = "unscored candidate", "fewer than two scored candidates"
"""The reasons for which a candidate is left out, and a caption gives no pair."""

LEAST_MARGIN = 1e-9
"""A margin up to this is a tie: sums that are mathematically equal differ by less in floating point."""


@dataclass(frozen=True, slots=True)
class ChosenPair:
    """The winner and the loser of a pair, by their candidates' keys, with their total scores."""

    winner: str
    loser: str
    winner_score: float
    loser_score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """judge -> its part of the margin, below 0 if it prefers the loser; the parts sum to the margin. Empty for a choice
    that uses no judge"""
    aspect: str = ""
    """the single judge or aspect that chose the pair; empty if all judges did together"""

    @property
    def margin(self) -> float:
        return self.winner_score - self.loser_score


class Choice(Protocol):
    """A rule that makes pairs from a caption's scored candidates."""

    def choose(self, values: Mapping[str, CandidateScores]) -> tuple[list[ChosenPair], Counter[str]]:
        """Return the caption's pairs, and the counted reasons for left-out candidates, couples or the caption.

        A tie is never a win: every pair has a margin above 0. Equal arguments give equal pairs.

        Args:
            values: the scores of each candidate, by its key, in the order of drawing.
        """
        ...


def weighted_sum(values: CandidateScores, weights: Mapping[str, float]) -> float | None:
    """Return S = sum of w_i s_i (Eq. 5); None if a weighted scorer gave no score.

    >>> weighted_sum({"vqa": 100.0, "clip": 30.0}, {"vqa": 0.5, "clip": 0.5})
    65.0
    """
    total = 0.0
    for name, weight in weights.items():
        value = values.get(name)
        if value is None:
            return None
        total += weight * value
    return total


def split_margin(winner: CandidateScores, loser: CandidateScores, weights: Mapping[str, float]) -> dict[str, float]:
    """Return each judge's part of the margin of the weighted sums, w_j (s_j(winner) - s_j(loser)).

    >>> split_margin({"vqa": 100.0, "clip": 30.0}, {"vqa": 60.0, "clip": 32.0}, {"vqa": 0.5, "clip": 0.5})
    {'vqa': 20.0, 'clip': -1.0}

    Raises:
        TypeError: one of the two lacks the score of a weighted scorer.
    """
    return {name: weight * (winner[name] - loser[name]) for name, weight in weights.items()}  # type: ignore[operator]


def list_scored(
    values: Mapping[str, CandidateScores], judges: Collection[str]
) -> tuple[dict[str, dict[str, float]], Counter[str]]:
    """Return the candidates that all `judges` scored, with these scores, and the counted reason for the others."""
    scored = {key: known for key, each in values.items() if len(known := _take_known(each, judges)) == len(judges)}
    return scored, +Counter({UNSCORED: len(values) - len(scored)})


def _take_known(values: CandidateScores, judges: Collection[str]) -> dict[str, float]:
    return {judge: value for judge in judges if (value := values.get(judge)) is not None}


def join_outcome(chosen: ChosenPair | str, left_out: Counter[str]) -> tuple[list[ChosenPair], Counter[str]]:
    """Return the result of `Choice.choose` for a caption with one pair, or with the reason why it has none."""
    return ([], left_out + Counter([chosen])) if isinstance(chosen, str) else ([chosen], left_out)


def find_margin_fault(margin: float, minimum: float) -> str | None:
    """Return the reason why a margin makes no pair; None if it makes one, since it is above `minimum`.

    >>> find_margin_fault(0.0, 0.0), find_margin_fault(2.0, 5.0), find_margin_fault(6.0, 5.0)
    ('tie', 'margin too small', None)
    """
    if margin <= LEAST_MARGIN:
        return "tie"
    return None if margin > minimum else "margin too small"
