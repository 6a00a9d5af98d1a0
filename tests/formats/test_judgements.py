from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agfsync.formats import TIE
from agfsync.formats.judgements import OVERRULED, REPEATED, Judgements, Rule


def judged(rule: Rule, *votes: str) -> Judgements[str]:
    found: Judgements[str] = Judgements(rule)
    for winner, loser in votes:
        found.add(winner, loser)
    return found


def test_the_majority_makes_one_pair_and_the_other_judgements_are_counted() -> None:
    found = judged("majority", "ba", "ab", "ab", "ab", "cd")
    assert list(found.pairs()) == [("a", "b", 0), ("c", "d", 0)]
    assert found.left_out() == {REPEATED: 2, OVERRULED: 1} and len(found) == 5


def test_as_many_judgements_either_way_are_a_tie() -> None:
    found = judged("majority", "ab", "ba", "ba", "ab")
    assert list(found.pairs()) == [] and found.left_out() == {TIE: 1, REPEATED: 3}


def test_by_the_other_rule_each_judgement_is_a_pair() -> None:
    found = judged("all", "ab", "ba", "ab")
    assert list(found.pairs()) == [("a", "b", 0), ("a", "b", 1), ("b", "a", 0)] and found.left_out() == {}


@pytest.mark.parametrize("rule", ["majority", "all"])
@given(votes=st.lists(st.permutations("abc").map(lambda letters: "".join(letters[:2])), max_size=30))
def test_pairs_and_what_is_left_out_are_all_judgements(rule: Rule, votes: list[str]) -> None:
    found = judged(rule, *votes)
    pairs = list(found.pairs())
    assert len(pairs) + found.left_out().total() == len(found) == len(votes)
    assert len(set(pairs)) == len(pairs)
    if rule == "majority":
        given_ = Counter(votes)
        assert {winner + loser for winner, loser, _ in pairs} == {v for v in given_ if given_[v] > given_[v[::-1]]}
