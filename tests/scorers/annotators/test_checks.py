from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agfsync.records import Annotation
from agfsync.scorers.annotators import draw_orders, rank_by_score
from agfsync.scorers.annotators.checks import (
    AspectTally,
    ImageVerdict,
    OverallTally,
    compare_images,
    compute_position_bias,
    count_rank_faults,
    find_contradictions,
    make_verdict,
)


def reply(shown: str, scores: Sequence[float], ranks: Sequence[int] | None = None, **more: bool) -> Annotation:
    """A reply on the candidates whose keys are the letters of `shown`."""
    given_ranks = rank_by_score(scores) if ranks is None else ranks
    return Annotation("k", "c", "gpt", "mood", 0, tuple(shown), tuple(scores), tuple(given_ranks), (), (), **more)


def test_the_score_decides_and_between_equal_ones_the_rank() -> None:
    verdict = ImageVerdict({"a": 4, "b": 4, "c": 2}, {"a": 2, "b": 1, "c": 3})
    assert [compare_images(verdict, *couple) for couple in ("ab", "ba", "ac", "ca", "aa")] == [-1, 1, 1, -1, 0]


def test_a_couple_is_contradicted_where_one_order_prefers_the_one_and_another_the_other() -> None:
    # a over b, then b over a; c is below both in both orders; a tie against a preference contradicts nothing.
    first = make_verdict("abcd", [5, 4, 2, 2], [1, 2, 3, 3])
    second = make_verdict("dcba", [2, 1, 5, 4], [3, 4, 1, 2])
    assert find_contradictions([first, second]) == {frozenset("ab")}
    assert find_contradictions([first]) == find_contradictions([]) == set()


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=2, max_size=6))
def test_rank_faults_as_counted_couple_by_couple(images: list[tuple[int, int]]) -> None:
    naive = sum(
        (one[0] > other[0] and one[1] > other[1]) or (one[0] < other[0] and one[1] < other[1])
        for one, other in combinations(images, 2)
    )
    assert count_rank_faults([score for score, _ in images], [rank for _, rank in images]) == naive


@pytest.mark.parametrize(
    ("counts", "expected"),
    # chi2 = (15^2 + 3 x 5^2) / 25 = 12 with 3 degrees of freedom; (5^2 + 5^2) / 15 = 10 / 3 with 1.
    [([40, 20, 20, 20], 0.00738316), ([20, 10], 0.06788915), ([25, 25, 25, 25], 1.0), ([9, 0], None), ([30], None)],
)
def test_the_position_of_the_best_is_tested_against_chance(counts: list[int], expected: float | None) -> None:
    assert compute_position_bias(counts) == (expected if expected is None else pytest.approx(expected, rel=1e-5))


def test_a_tally_by_hand() -> None:
    tally = AspectTally()
    # The best is second, then first; b and c are contradicted; one reply ranks c over b against its scores.
    assert tally.add_replies([reply("abc", [2, 5, 4], [3, 2, 1]), reply("cba", [5, 3, 1])]) == {frozenset("bc")}
    # a is shown twice, with other scores; the first place is not of three images.
    assert tally.add_replies([reply("aba", [4, 3, 3]), reply("aba", [4, 4, 4])]) == set()
    assert tally.add_replies([reply("abc", [], refused=True), reply("cba", [])]) == set()
    assert tally.summarise() == {
        "replies": 4,
        "refused": 1,
        "unread": 1,
        "rank_faults": 1,
        "couples": 4,
        "contradicted": 1,
        "duplicates": 2,
        "unequal_duplicates": 1,
        "first_at": [2, 0, 1],
        "position_p": None,
    }


def test_overall_against_the_mean_of_the_aspects() -> None:
    tally = OverallTally()
    for overall, mean in ((5.0, 4.5), (1.0, 4.0), (3.0, 3.5)):
        tally.add(overall, mean)
    assert tally.summarise() == {"images": 3, "apart": 1, "difference": -1.0}


def test_orders_come_with_their_reverse_and_depend_on_the_seed_alone() -> None:
    first, second, third = draw_orders(4, 3, 0, "caption", "mood")
    assert second == first[::-1] and sorted(third) == [0, 1, 2, 3]
    assert [first] == list(draw_orders(4, 1, 0, "caption", "mood"))
    assert len({next(draw_orders(4, 1, seed, "caption")) for seed in range(200)}) == 24
