"""The spreading of captions over categories, for each split."""

from collections.abc import Mapping

from agfsync.records import Split

SplitCounts = dict[Split, int]
"""The number of captions of each split."""


def spread_over_categories(needed: SplitCounts, capacities: Mapping[str, int]) -> dict[str, SplitCounts]:
    """Spread the `needed` captions evenly over the categories; the first ones take the remainder.

    `capacities` has the number of captions that each category can give, in total at least as many as needed; if one has
    too few, the others take its share.
    """
    held_out = spread_evenly(needed["held-out"], capacities)
    left = {category: capacity - held_out[category] for category, capacity in capacities.items()}
    train = spread_evenly(needed["train"], left)
    return {category: {"train": train[category], "held-out": held_out[category]} for category in capacities}


def spread_evenly(count: int, capacities: Mapping[str, int]) -> dict[str, int]:
    """Return `count` spread evenly over the names, none above its capacity; the capacities must suffice in total.

    >>> spread_evenly(5, {"a": 1, "b": 9, "c": 9})
    {'a': 1, 'b': 3, 'c': 1}
    """
    shares = dict.fromkeys(capacities, 0)
    while left := count - sum(shares.values()):
        not_full = [name for name, capacity in capacities.items() if shares[name] < capacity]
        share, remainder = divmod(left, len(not_full))
        for place, name in enumerate(not_full):
            shares[name] += min(capacities[name] - shares[name], share + (place < remainder))
    return shares
