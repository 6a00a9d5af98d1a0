"""Count what is left out, by reason, with the first places of each. No format of its own."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from agfsync.formats import LeftOut

PLACES_SHOWN = 3
"""Places of a reason that are shown."""


@dataclass(slots=True)
class LeftOutTally:
    """What was left out: `counts` by reason, `failed` those among them that count against the failure budget."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """the first few of each reason, such as "row 2\""""

    def add(self, left: LeftOut) -> None:
        """Count `left`."""
        self.counts[left.reason] += left.count
        if left.failed:
            self.failed[left.reason] += left.count
        places = self.places[left.reason]
        if left.where and len(places) < PLACES_SHOWN and left.where not in places:
            places.append(left.where)

    def lines(self, *, failed: bool = True) -> Iterator[str]:
        """Yield a line for each reason, such as "no text under 'caption' 1 (row 2)"; `failed` ones too, or not."""
        counts = self.counts if failed else self.counts - self.failed
        return (
            f"{reason} {count}{format_places(self.places.get(reason, []), count)}"
            for reason, count in counts.most_common()
        )


def format_places(shown: list[str], count: int) -> str:
    """Return the places of a reason in brackets; empty where there are none."""
    return f" ({', '.join(shown)}{', ...' if PLACES_SHOWN == len(shown) < count else ''})" if shown else ""
