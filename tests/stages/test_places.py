from agfsync.stages.places import SplitCounts, spread_over_categories


def test_what_is_left_over_goes_to_the_first_categories() -> None:
    asked: SplitCounts = {"train": 4, "held-out": 2}
    assert spread_over_categories(asked, {"a": 6, "b": 6, "c": 6}) == {
        "a": {"train": 2, "held-out": 1},
        "b": {"train": 1, "held-out": 1},
        "c": {"train": 1, "held-out": 0},
    }


def test_rooms_are_filled_evenly_up_to_their_ends() -> None:
    asked: SplitCounts = {"train": 6, "held-out": 2}
    assert spread_over_categories(asked, {"a": 1, "b": 9, "c": 9}) == {
        "a": {"train": 0, "held-out": 1},
        "b": {"train": 3, "held-out": 1},
        "c": {"train": 3, "held-out": 0},
    }


def test_nothing_is_shared_out_where_nothing_is_asked_for() -> None:
    asked: SplitCounts = {"train": 0, "held-out": 0}
    assert spread_over_categories(asked, {"a": 0}) == {"a": {"train": 0, "held-out": 0}}
    assert spread_over_categories(asked, {}) == {}
