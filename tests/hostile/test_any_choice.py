"""The reply parser, pair choice and statistics: what holds for any input."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from anything import STEADY, TEXT, TREES
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agfsync.chat.replies import UnreadableError, parse_reply
from agfsync.choices import LEAST_MARGIN, weighted_sum
from agfsync.choices.best_worst import BestWorst
from agfsync.language.captions import Descriptions
from agfsync.language.questions import Round, Verdicts
from agfsync.statistics import compute_win_shares, correlate_values, infer_mean, infer_win_rate, subtract_paired

pytestmark = pytest.mark.slow


@settings(STEADY, max_examples=300)
@given(reply=TEXT | TREES.map(json.dumps) | st.tuples(TEXT, TREES.map(json.dumps), TEXT).map("".join))
def test_any_reply_is_read_or_told(reply: str) -> None:
    for shape in (Descriptions, Round, Verdicts):
        try:
            found = parse_reply(reply, shape)
        except UnreadableError as reason:
            assert "\n" not in str(reason)
        else:
            assert isinstance(found, shape)


@settings(STEADY, max_examples=100)
@given(
    texts=st.lists(st.text(max_size=40), max_size=6),
    before=st.text(st.characters(exclude_characters='{}[]"<,'), max_size=30),
    after=st.text(st.characters(exclude_characters='{}[]"<,'), max_size=30),
)
def test_a_good_reply_is_found_whatever_prose_is_around_it(texts: list[str], before: str, after: str) -> None:
    assert parse_reply(before + json.dumps({"descriptions": texts}) + after, Descriptions).descriptions == texts


@settings(STEADY, max_examples=100)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=6), share=st.floats(0, 1))
def test_of_a_reply_that_was_cut_only_whole_texts_are_read(texts: list[str], share: float) -> None:
    whole = json.dumps({"descriptions": texts})
    try:
        found = parse_reply(whole[: int(share * len(whole))], Descriptions).descriptions
    except UnreadableError:
        return
    assert found == texts[: len(found)]


WEIGHTS = st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 1), min_size=1)
SCORES = st.one_of(st.none(), st.floats(0, 100), st.sampled_from([0.0, 50.0, 100.0]))
VALUES = st.dictionaries(st.integers(0, 9).map(str), st.dictionaries(st.sampled_from("abc"), SCORES), max_size=8)


@settings(STEADY, max_examples=300)
@given(values=VALUES, weights=WEIGHTS, minimum=st.sampled_from([0.0, 1.0, 20.0]))
def test_the_winner_has_the_highest_sum_and_the_loser_the_lowest(
    values: Mapping[str, Mapping[str, float | None]], weights: Mapping[str, float], minimum: float
) -> None:
    sums = {key: total for key, each in values.items() if (total := weighted_sum(each, weights)) is not None}
    chosen, left_out = BestWorst(weights, minimum).choose(values)
    assert left_out["unscored candidate"] == len(values) - len(sums)
    if not chosen:
        apart = max(sums.values(), default=0.0) - min(sums.values(), default=0.0)
        assert (len(sums) < 2) == bool(left_out["fewer than two scored candidates"])
        assert len(sums) < 2 or apart <= max(minimum, LEAST_MARGIN)
        return
    (choice,) = chosen
    assert choice.winner_score == max(sums.values()) == sums[choice.winner]
    assert choice.loser_score == min(sums.values()) == sums[choice.loser]
    assert choice.winner != choice.loser and choice.margin > minimum


@settings(STEADY, max_examples=200)
@given(values=VALUES, weights=WEIGHTS, order=st.randoms(use_true_random=False))
def test_order_decides_among_equals_alone_and_what_is_unscored_decides_nothing(
    values: Mapping[str, Mapping[str, float | None]], weights: Mapping[str, float], order: Any
) -> None:
    keys = list(values)
    order.shuffle(keys)
    rule = BestWorst(weights)
    (one, _), (other, _) = rule.choose(values), rule.choose({key: values[key] for key in keys})
    scored = {key: each for key, each in values.items() if weighted_sum(each, weights) is not None}
    assert rule.choose(scored)[0] == one
    assert [(c.winner_score, c.loser_score) for c in one] == [(c.winner_score, c.loser_score) for c in other]
    sums = [weighted_sum(each, weights) for each in scored.values()]
    if len(set(sums)) == len(sums):
        assert one == other


NUMBERS = st.floats(-100, 100).map(lambda value: round(value, 3))
PAIRED = st.integers(1, 30).flatmap(lambda n: st.tuples(*(st.lists(NUMBERS, min_size=n, max_size=n) for _ in range(2))))


@settings(STEADY, max_examples=200)
@given(both=PAIRED)
def test_the_win_rates_of_both_sides_make_one(both: tuple[list[float], list[float]]) -> None:
    base, aligned = both
    rate = compute_win_shares(base, aligned).rate
    assert 0 <= rate <= 1
    assert rate + compute_win_shares(aligned, base).rate == pytest.approx(1)
    assert compute_win_shares(base, base).rate == 0.5
    assert subtract_paired(base, aligned).mean() == pytest.approx(-subtract_paired(aligned, base).mean())


@settings(STEADY, max_examples=200)
@given(both=PAIRED, place=st.integers(0, 29), gain=st.floats(0, 50))
def test_a_better_image_lowers_no_figure(both: tuple[list[float], list[float]], place: int, gain: float) -> None:
    base, aligned = both
    better = [value + gain * (n == place % len(aligned)) for n, value in enumerate(aligned)]
    assert compute_win_shares(base, better).rate >= compute_win_shares(base, aligned).rate
    assert subtract_paired(base, better).mean() >= subtract_paired(base, aligned).mean() - 1e-9
    more, less = (infer_win_rate(compute_win_shares(base, each), len(base)) for each in (better, aligned))
    assert more.high >= less.low


@settings(STEADY, max_examples=200)
@given(both=PAIRED, seed=st.integers(0, 2**32), shift=st.floats(-50, 50))
def test_the_interval_holds_the_mean_and_moves_with_the_differences(
    both: tuple[list[float], list[float]], seed: int, shift: float
) -> None:
    differences = np.subtract(both[1], both[0])
    interval, p = infer_mean(differences, 99, seed)
    assert (interval is None) == (p is None) == (differences.size < 6)
    if interval is None or p is None:
        return
    assert np.isfinite(interval).all() and 0 < p <= 1
    assert interval.low <= differences.mean() + 1e-9 and differences.mean() - 1e-9 <= interval.high
    wide = infer_mean(differences, 99, seed, confidence=0.999).interval
    assert wide is not None and wide.low <= interval.low and interval.high <= wide.high
    moved = infer_mean(differences + shift, 99, seed).interval
    assert moved == pytest.approx((interval.low + shift, interval.high + shift), rel=1e-8, abs=1e-6)
    mirrored = infer_mean(-differences, 99, seed).interval
    assert mirrored == pytest.approx((-interval.high, -interval.low), rel=1e-8, abs=1e-6)


@settings(STEADY, max_examples=200)
@given(both=PAIRED)
def test_the_win_rates_interval_holds_it_and_is_mirrored(both: tuple[list[float], list[float]]) -> None:
    base, aligned = both
    low, high = infer_win_rate(compute_win_shares(base, aligned), len(base))
    assert (
        0 <= low <= compute_win_shares(base, aligned).rate + 1e-12
        and compute_win_shares(base, aligned).rate - 1e-12 <= high <= 1
    )
    mirrored = infer_win_rate(compute_win_shares(aligned, base), len(base))
    assert mirrored == pytest.approx((1 - high, 1 - low))


@settings(STEADY, max_examples=100)
@given(both=PAIRED, order=st.randoms(use_true_random=False))
def test_order_and_scale_change_no_correlation(both: tuple[list[float], list[float]], order: Any) -> None:
    x, y = both
    r = correlate_values(x, y)
    assert r == correlate_values(y, x)
    if r is None:
        return
    assert -1 <= r <= 1 and not math.isnan(r)
    places = list(range(len(x)))
    order.shuffle(places)
    assume(np.std(x) > 0.1 and np.std(y) > 0.1)
    assert correlate_values([x[p] for p in places], [2 * y[p] + 3 for p in places]) == pytest.approx(r, abs=1e-6)
