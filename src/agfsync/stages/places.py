"""The spreading of captions over categories, for training and held out."""

from collections.abc import Mapping

from agfsync.records import Split

Places = dict[Split, int]
"""The number of captions of each split."""


def share_by_category(asked: Places, rooms: Mapping[str, int]) -> dict[str, Places]:
    """Spread the captions `asked` for evenly over the categories; the first ones take the remainder.

    `rooms` has the number of captions of each category, together at least as many as are asked for; if one has too
    few, the others take its part.
    """
    held_out = spread_evenly(asked["held-out"], rooms)
    train = spread_evenly(asked["train"], {category: room - held_out[category] for category, room in rooms.items()})
    return {category: {"train": train[category], "held-out": held_out[category]} for category in rooms}


def spread_evenly(count: int, rooms: Mapping[str, int]) -> dict[str, int]:
    """Return `count` spread evenly over `rooms`, which must hold as many, with no room above what it holds.

    >>> spread_evenly(5, {"a": 1, "b": 9, "c": 9})
    {'a': 1, 'b': 3, 'c': 1}
    """
    given = dict.fromkeys(rooms, 0)
    while left := count - sum(given.values()):
        open_ = [name for name, room in rooms.items() if given[name] < room]
        each, over = divmod(left, len(open_))
        for place, name in enumerate(open_):
            given[name] += min(rooms[name] - given[name], each + (place < over))
    return given
