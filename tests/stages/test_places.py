from agfsync.stages.places import Places, share_by_category


def test_what_is_left_over_goes_to_the_first_categories() -> None:
    asked: Places = {"train": 4, "held-out": 2}
    assert share_by_category(asked, {"a": 6, "b": 6, "c": 6}) == {
        "a": {"train": 2, "held-out": 1},
        "b": {"train": 1, "held-out": 1},
        "c": {"train": 1, "held-out": 0},
    }


def test_rooms_are_filled_evenly_up_to_their_ends() -> None:
    asked: Places = {"train": 6, "held-out": 2}
    assert share_by_category(asked, {"a": 1, "b": 9, "c": 9}) == {
        "a": {"train": 0, "held-out": 1},
        "b": {"train": 3, "held-out": 1},
        "c": {"train": 3, "held-out": 0},
    }


def test_nothing_is_shared_out_where_nothing_is_asked_for() -> None:
    asked: Places = {"train": 0, "held-out": 0}
    assert share_by_category(asked, {"a": 0}) == {"a": {"train": 0, "held-out": 0}}
    assert share_by_category(asked, {}) == {}
