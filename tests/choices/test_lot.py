from collections import Counter

from agfsync.choices import ChosenPair
from agfsync.choices.lot import DrawnByLot


def test_the_lot_reads_no_score_and_is_the_same_each_time() -> None:
    keys = ["a", "b", "c", "d"]
    (first,), left_out = DrawnByLot().choose({key: {"s": 1.0} for key in keys})
    assert DrawnByLot().choose({key: {"s": None} for key in reversed(keys)}) == ([first], left_out)
    assert first == ChosenPair(first.winner, first.loser, 1.0, 0.0) and left_out == Counter()


def test_each_ordered_couple_has_the_same_chance_and_another_seed_draws_others() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    same = 0
    for caption in range(3000):
        values = {f"{caption} {key}": {} for key in "abc"}
        (pair,), _ = DrawnByLot().choose(values)
        counts[pair.winner[-1], pair.loser[-1]] += 1
        (other,), _ = DrawnByLot(seed=1).choose(values)
        same += (pair.winner, pair.loser) == (other.winner, other.loser)
    assert len(counts) == 6 and all(abs(count - 500) < 100 for count in counts.values())
    assert abs(same - 500) < 100


def test_one_candidate_is_no_pair() -> None:
    assert DrawnByLot().choose({"a": {}}) == ([], Counter(["fewer than two candidates"]))
