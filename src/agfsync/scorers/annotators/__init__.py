"""Annotators: scorers that see all images of a prompt at once, and give each a score and a rank with a reason.

An annotator is a class of the catalog's "scorers" that has `annotate` instead of `score`. Its settings name its
aspects. The scores of a recipe's annotator "gpt" are named gpt.aesthetic and so on, and gpt for their mean.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from agfsync.records import derive_seed

LOWEST, HIGHEST = 1, 5
"""The lowest and the highest level of a score."""


@dataclass(frozen=True, slots=True)
class AnnotationRequest:
    """A request to judge `images` of a prompt, in this order, by one aspect.

    Images are RGB; an image that is shown twice is listed twice. `seed` is for an annotator that samples its reply.
    """

    prompt: str
    aspect: str
    images: tuple[Image.Image, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class AspectJudgement:
    """An annotator's reply: for each image, in the order shown, a score in 1..5, a rank from 1, and the reason.

    Equal ranks are ties. `replies` are the raw texts: first those that could not be read, last the one that could.
    """

    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    reasons: tuple[str, ...]
    replies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unjudged:
    """The reason why there is no judgement; `refused` is True if the model declined to judge these images."""

    reason: str
    replies: tuple[str, ...] = ()
    refused: bool = False


class Annotator(Protocol):
    """A judge of all images of a prompt at once.

    An annotator behind a server accepts a `Meter` as `meter`, which counts its cost.
    """

    def annotate(self, requests: Sequence[AnnotationRequest]) -> Iterable[AspectJudgement | Unjudged]:
        """Return one reply for each request, in order; a generator may yield the first before the last are ready.

        Raises:
            BudgetError: its spending cap is reached; the replies before are yielded first.
        """
        ...


def draw_orders(count: int, repeats: int, *seed: str | int) -> Iterator[tuple[int, ...]]:
    """Yield `repeats` orders of the positions 0..count-1: an order drawn from `seed`, its reverse, another one, ...

    >>> [sorted(order) for order in draw_orders(3, 2, "caption", 0)]
    [[0, 1, 2], [0, 1, 2]]
    """
    for repeat in range(repeats):
        if repeat % 2 == 0:
            order = random.Random(derive_seed("order", *seed, repeat)).sample(range(count), count)
        else:
            order = order[::-1]
        yield tuple(order)


def rank_by_score(scores: Iterable[float]) -> tuple[int, ...]:
    """Return the rank of each score, 1 for the highest; equal scores have equal ranks (1, 2, 2, 4).

    >>> rank_by_score([3.0, 5.0, 3.0, 1.0])
    (2, 1, 2, 4)
    """
    scores = list(scores)
    return tuple(1 + sum(other > score for other in scores) for score in scores)
