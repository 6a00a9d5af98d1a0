"""Checks of an annotator's replies: pure functions of scores, ranks and positions.

A couple is two images of a prompt. A reply prefers the image with the higher score or, if the scores are equal, the
better rank.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from agfsync.records import Annotation

FEWEST_PER_POSITION = 5
"""The expected count per position below which a chi-square test isn't valid."""


@dataclass(frozen=True, slots=True)
class ImageVerdict:
    """A reply by image: `scores` in 1..5 and `ranks` from 1 by candidate key, in the order shown.

    For an image that was shown twice, `doubled` has the score of its second showing.
    """

    scores: Mapping[str, float]
    ranks: Mapping[str, int]
    doubled: Mapping[str, float] = field(default_factory=dict)


def make_verdict(shown: Sequence[str], scores: Sequence[float], ranks: Sequence[int]) -> ImageVerdict:
    """Return the verdict of a reply on the candidates `shown`; if one is shown twice, the first showing counts.

    >>> make_verdict(["a", "b", "a"], [5, 3, 4], [1, 3, 2])
    ImageVerdict(scores={'a': 5, 'b': 3}, ranks={'a': 1, 'b': 3}, doubled={'a': 4})
    """
    by_score: dict[str, float] = {}
    by_rank: dict[str, int] = {}
    doubled: dict[str, float] = {}
    for key, score, rank in zip(shown, scores, ranks, strict=True):
        if key in by_score:
            doubled[key] = score
        else:
            by_score[key], by_rank[key] = score, rank
    return ImageVerdict(by_score, by_rank, doubled)


def compare_images(verdict: ImageVerdict, first: str, second: str) -> int:
    """Return 1 if the reply prefers `first`, -1 if it prefers `second`, 0 if it prefers neither."""
    difference = verdict.scores[first] - verdict.scores[second] or verdict.ranks[second] - verdict.ranks[first]
    return (difference > 0) - (difference < 0)


def count_rank_faults(scores: Sequence[float], ranks: Sequence[int]) -> int:
    """Count the couples in which the image with the higher score has the worse rank.

    >>> count_rank_faults([5, 4, 4, 1], [2, 1, 3, 4]), count_rank_faults([5, 4], [1, 1])
    (1, 0)
    """
    return sum(
        (one_score - other_score) * (one_rank - other_rank) > 0
        for (one_score, one_rank), (other_score, other_rank) in combinations(zip(scores, ranks, strict=True), 2)
    )


def find_contradictions(verdicts: Sequence[ImageVerdict]) -> set[frozenset[str]]:
    """Return the couples on which a caption's replies contradict each other: each image is preferred by some reply."""
    return {
        frozenset((first, second))
        for first, second in combinations(_list_common(verdicts), 2)
        if {1, -1} <= {compare_images(verdict, first, second) for verdict in verdicts}
    }


def _list_common(verdicts: Sequence[ImageVerdict]) -> list[str]:
    """Return the candidates that all verdicts judge."""
    return sorted(set.intersection(*(set(verdict.scores) for verdict in verdicts))) if verdicts else []


def sum_verdicts(verdicts: Sequence[ImageVerdict]) -> ImageVerdict:
    """Sum the scores of several aspects' verdicts in one order; all ranks are 1.

    >>> one, other = ImageVerdict({"a": 5, "b": 3}, {"a": 1, "b": 2}), ImageVerdict({"a": 2, "b": 3}, {"a": 2, "b": 1})
    >>> sum_verdicts([one, other]).scores
    {'a': 7, 'b': 6}
    """
    keys = [key for key in verdicts[0].scores if all(key in each.scores for each in verdicts)]
    return ImageVerdict({key: sum(each.scores[key] for each in verdicts) for key in keys}, dict.fromkeys(keys, 1))


def find_first_position(ranks: Sequence[int]) -> int | None:
    """Return the position, from 0, of the image on rank 1; None if several share it.

    >>> find_first_position([2, 1, 3]), find_first_position([1, 1, 2])
    (1, None)
    """
    first = min(ranks)
    return ranks.index(first) if list(ranks).count(first) == 1 else None


def compute_position_bias(counts: Sequence[int]) -> float | None:
    """Return the p-value of the chi-square test that rank 1 is equally likely at each position; None if too few.

    Args:
        counts: the number of replies with rank 1 at each position.

    >>> compute_position_bias([40, 20, 20, 20]), compute_position_bias([3, 1])
    (0.007383160505359769, None)
    """
    if len(counts) < 2 or sum(counts) < FEWEST_PER_POSITION * len(counts):
        return None
    from scipy.stats import chisquare  # takes seconds to import

    return float(chisquare(counts).pvalue)


@dataclass(slots=True)
class AspectTally:
    """The checks of an annotator's replies on one aspect, accumulated over captions."""

    replies: int = 0
    refused: int = 0
    unread: int = 0
    rank_faults: int = 0
    """replies that rank a couple against its scores"""
    couples: int = 0
    contradicted: int = 0
    duplicates: int = 0
    unequal: int = 0
    first_at: dict[int, Counter[int]] = field(default_factory=dict)
    """number of images shown -> position of rank 1 -> replies"""

    def add_replies(self, replies: Sequence[Annotation]) -> set[frozenset[str]]:
        """Add a caption's replies in all orders, and return the couples on which they contradict each other."""
        self.refused += sum(each.refused for each in replies)
        self.unread += sum(not (each.scores or each.refused) for each in replies)
        verdicts = [self._add_reply(each.shown, each.scores, each.ranks) for each in replies if each.scores]
        contradicted = find_contradictions(verdicts)
        if len(verdicts) > 1:
            images = len(_list_common(verdicts))
            self.couples += images * (images - 1) // 2
            self.contradicted += len(contradicted)
        return contradicted

    def _add_reply(self, shown: Sequence[str], scores: Sequence[float], ranks: Sequence[int]) -> ImageVerdict:
        verdict = make_verdict(shown, scores, ranks)
        self.replies += 1
        self.rank_faults += count_rank_faults(scores, ranks) > 0
        self.duplicates += len(verdict.doubled)
        self.unequal += sum(verdict.scores[key] != score for key, score in verdict.doubled.items())
        if (position := find_first_position(ranks)) is not None:
            self.first_at.setdefault(len(shown), Counter())[position] += 1
        return verdict

    def summarise(self) -> dict[str, Any]:
        """Return the counts, and the histogram of the position of rank 1 with its p-value.

        The histogram covers the replies on the most frequent number of images that have a single image on rank 1.
        """
        size = max(self.first_at, key=lambda size: self.first_at[size].total(), default=0)
        histogram = [self.first_at[size][position] for position in range(size)] if size else []
        return {
            "replies": self.replies,
            "refused": self.refused,
            "unread": self.unread,
            "rank_faults": self.rank_faults,
            "couples": self.couples,
            "contradicted": self.contradicted,
            "duplicates": self.duplicates,
            "unequal_duplicates": self.unequal,
            "first_at": histogram,
            "position_p": compute_position_bias(histogram),
        }


@dataclass(slots=True)
class OverallTally:
    """Comparison of each image's score for the aspect `overall` and the mean of its other aspects, both in 1..5."""

    images: int = 0
    apart: int = 0
    """images for which the two differ by more than one level"""
    difference: float = 0.0

    def add(self, overall: float, mean: float) -> None:
        """Add an image."""
        self.images += 1
        self.apart += abs(overall - mean) > 1
        self.difference += overall - mean

    def summarise(self) -> dict[str, float]:
        """Return the number of images, the number far apart, and the mean difference (overall minus the mean)."""
        return {"images": self.images, "apart": self.apart, "difference": self.difference / max(self.images, 1)}
