"""Several judgements of the same two pictures as one pair, as when several raters saw them. No format of its own."""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Generic, Literal, TypeVar

from agfsync.formats import TIE
from agfsync.records import digest

K = TypeVar("K", bound=Hashable)

Rule = Literal["majority", "all"]
"""What becomes of several judgements of the same pictures: one pair by their majority, or a pair of each."""
REPEATED = "repeated judgement of the same two pictures"
OVERRULED = "overruled by most judgements of the same two pictures"
AGAINST = 1 << 32
SAME = "winner and loser are the same picture"


def picture_key(caption: str, image: bytes) -> str:
    """Return what names a picture of a caption: the same file is the same picture."""
    return digest("pair set's picture", caption, blake2b(image, digest_size=16).hexdigest())


@dataclass(slots=True)
class Judgements(Generic[K]):
    """Judgements as they come, by the keys of the two pictures. Memory holds two keys and a number for each pair."""

    rule: Rule
    _votes: dict[tuple[K, K], int] = field(default_factory=dict)
    """of each two pictures, as they were first judged: votes for the first, and `AGAINST` times those for the other"""

    def add(self, winner: K, loser: K) -> None:
        """Enter one judgement."""
        if (loser, winner) in self._votes:
            self._votes[loser, winner] += AGAINST
        else:
            self._votes[winner, loser] = self._votes.get((winner, loser), 0) + 1

    def __len__(self) -> int:
        return sum(map(sum, map(_split_votes, self._votes.values())))

    def pairs(self) -> Iterator[tuple[K, K, int]]:
        """Yield winner and loser of each pair, and how many of the same came before it, which only "all" gives."""
        for (one, other), both in self._votes.items():
            votes, against = _split_votes(both)
            if self.rule == "all":
                yield from ((one, other, number) for number in range(votes))
                yield from ((other, one, number) for number in range(against))
            elif votes != against:
                yield (one, other, 0) if votes > against else (other, one, 0)

    def left_out(self) -> Counter[str]:
        """Return how many judgements are no pair of their own, by reason; with the pairs they are all judgements."""
        counts: Counter[str] = Counter()
        for votes, against in map(_split_votes, self._votes.values() if self.rule == "majority" else ()):
            counts[TIE] += votes == against
            counts[REPEATED] += votes + against - 1 - (0 if votes == against else min(votes, against))
            counts[OVERRULED] += 0 if votes == against else min(votes, against)
        return +counts


def _split_votes(both: int) -> tuple[int, int]:
    against, votes = divmod(both, AGAINST)
    return votes, against
