"""The figures of pairwise judging against hand-computed cases."""

import random

import pytest

from agfsync.records import Vote
from agfsync.stages.evaluation.votes import decide_winner, summarise_votes

BASE_FIRST, ALIGNED_FIRST = "base", "aligned"


def votes(prompts: list[tuple[str | None, str | None]], ask: str = "appeal") -> list[Vote]:
    """The votes on prompts: of each the choice with the base's image first, and with the aligned one's."""
    return [
        Vote(f"{n}{first}", "arena", f"c{n}", ask, first, choice)
        for n, both in enumerate(prompts)
        for first, choice in zip((BASE_FIRST, ALIGNED_FIRST), both, strict=True)
    ]


@pytest.mark.parametrize(
    ("choices", "winner"),
    [
        (("aligned", "aligned"), "aligned"),
        (("base", "base"), "base"),
        (("aligned", "base"), "tie"),
        (("aligned", "tie"), "tie"),
        (("tie", "tie"), "tie"),
        (("aligned", None), None),
        (("aligned",), None),
    ],
)
def test_a_win_needs_both_orders(choices: tuple[str | None, ...], winner: str | None) -> None:
    assert decide_winner(choices) == winner


def test_figures_are_those_by_hand() -> None:
    """5 wins, 2 losses, 1 tie by position, 1 tie said in both orders, 1 half tie, 1 unread."""
    prompts: list[tuple[str | None, str | None]] = [("aligned", "aligned")] * 5 + [("base", "base")] * 2
    prompts += [("base", "aligned"), ("tie", "tie"), ("tie", "aligned"), ("base", None)]
    figures = summarise_votes(votes(prompts), 200, 0)["appeal"]
    assert {name: figures[name] for name in ("prompts", "unread", "wins", "ties", "losses")} == {
        "prompts": 10,
        "unread": 1,
        "wins": 5,
        "ties": 3,
        "losses": 2,
    }
    assert figures["win_rate"] == pytest.approx(5 / 10)
    assert figures["adjusted"] == pytest.approx((5 + 3 / 2) / 10)
    assert figures["low"] < 0.65 < figures["high"]
    assert figures["agreed"] == pytest.approx(8 / 10)
    # Seven prompts with one first and one second choice; one with two first; one whose only choice was the first.
    assert figures["first"] == pytest.approx((7 * 0.5 + 1 + 1) / 9)
    assert figures["first_low"] < figures["first"] < figures["first_high"]


def test_asks_are_counted_apart() -> None:
    both = [*votes([("aligned", "aligned")] * 3, "preference"), *votes([("base", "base")], "appeal")]
    found = summarise_votes(both, 100, 0)
    assert {ask: (f["wins"], f["losses"]) for ask, f in found.items()} == {"preference": (3, 0), "appeal": (0, 1)}


def test_a_set_without_a_whole_prompt_has_no_rate() -> None:
    assert summarise_votes(votes([(None, "base")]), 100, 0) == {"appeal": {"prompts": 0, "unread": 1}}


def test_only_ties_have_no_position() -> None:
    figures = summarise_votes(votes([("tie", "tie")] * 8), 100, 0)["appeal"]
    assert (figures["adjusted"], figures["first"], figures["first_low"]) == (0.5, None, None)


def test_choices_by_lot_give_intervals_that_hold_one_half() -> None:
    """Of 100 evaluations nearly 95; with 1,000 they were 958 and 949."""
    held = {"win": 0, "first": 0}
    for seed in range(1000, 1100):
        rng = random.Random(seed)
        drawn = [(rng.choice(["base", "aligned"]), rng.choice(["base", "aligned"])) for _ in range(60)]
        figures = summarise_votes(votes([*drawn]), 100, seed)["appeal"]
        held["win"] += figures["low"] <= 0.5 <= figures["high"]
        held["first"] += figures["first_low"] <= 0.5 <= figures["first_high"]
    assert min(held.values()) >= 90
