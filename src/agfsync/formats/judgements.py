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
SAME = "winner and loser are the same picture"


def picture_key(caption: str, image: bytes) -> str:
    """Return what names a picture of a caption: the same file is the same picture."""
    return digest("pair set's picture", caption, blake2b(image, digest_size=16).hexdigest())


@dataclass(slots=True)
class Judgements(Generic[K]):
    """Judgements as they come, by the keys of the two pictures."""

    rule: Rule
    _given: dict[tuple[K, K], list[bool]] = field(default_factory=dict)
    """of each two pictures, in the order of the first judgement: whether that one's winner won"""

    def add(self, winner: K, loser: K) -> None:
        """Enter one judgement."""
        if (loser, winner) in self._given:
            self._given[loser, winner].append(False)
        else:
            self._given.setdefault((winner, loser), []).append(True)

    def __len__(self) -> int:
        return sum(map(len, self._given.values()))

    def pairs(self) -> Iterator[tuple[K, K, int]]:
        """Yield winner and loser of each pair, and how many pairs the run has of them already (0, or up by "all")."""
        for (one, other), votes in self._given.items():
            if self.rule == "all":
                seen: Counter[bool] = Counter()
                for vote in votes:
                    yield (one, other, seen[vote]) if vote else (other, one, seen[vote])
                    seen[vote] += 1
            elif (lead := 2 * sum(votes) - len(votes)) != 0:
                yield (one, other, 0) if lead > 0 else (other, one, 0)

    def left_out(self) -> Counter[str]:
        """Return how many judgements are no pair of their own, by reason; with the pairs they are all judgements."""
        counts: Counter[str] = Counter()
        for votes in self._given.values():
            if self.rule == "all":
                continue
            most = max(sum(votes), len(votes) - sum(votes))
            if 2 * most == len(votes):
                counts += Counter({TIE: 1, REPEATED: len(votes) - 1})
            else:
                counts += Counter({REPEATED: most - 1, OVERRULED: len(votes) - most})
        return +counts
