"""Pairwise judges on labelled pairs: what they choose, and by which place."""

import random
from collections.abc import Callable, Sequence

from PIL import Image

from agfsync.commands.judging import PairToJudge, PairwiseRecord
from agfsync.files.images import encode_png
from agfsync.scorers import Unscored
from agfsync.scorers.pairwise import Ballot, Match
from agfsync.statistics.accuracy import LabelledPair

CASES = 40


class Judge:
    """A judge that chooses by a function of the red of the first and the second image."""

    def __init__(self, choose: Callable[[int, int], str]) -> None:
        self.choose = choose

    def compare(self, matches: Sequence[Match]) -> list[Ballot | Unscored]:
        red: list[tuple[int, int]] = [(m.first.getpixel((0, 0))[0], m.second.getpixel((0, 0))[0]) for m in matches]  # type: ignore[index,misc]
        said = [self.choose(*both) for both in red]
        return [Ballot(each, "", "") if each else Unscored("it is silent") for each in said]  # type: ignore[arg-type]


def pair(number: int, winner: int, loser: int, broken: bool = False) -> PairToJudge:
    files = {str(red): encode_png(Image.new("RGB", (4, 4), (red, 0, 0))) for red in (winner, loser)}
    files |= {str(loser): b"no image"} if broken else {}
    return PairToJudge(LabelledPair(f"p{number}", str(winner), str(loser)), "a cat", files)


def judge(choose: Callable[[int, int], str], pairs: Sequence[PairToJudge]) -> PairwiseRecord:
    record = PairwiseRecord("arena", ["preference"], Judge(choose))
    record.add(pairs)
    return record


def test_a_preference_is_one_that_both_orders_agree_on() -> None:
    record = judge(lambda a, b: "1" if a > b else "2", [pair(0, 200, 100), pair(1, 50, 90), pair(2, 9, 8, broken=True)])
    differences = record.find_differences()["arena"]
    assert differences[:2] == [1.0, -1.0] and differences[2] != differences[2]
    assert sum(record.reasons.values()) == 2
    assert record.measure_positions(50, 0)["arena"]["first"] == 0.5


def test_a_planted_position_bias_is_found() -> None:
    record = judge(lambda a, b: "1", [pair(n, 200, 100) for n in range(CASES)])
    assert record.find_differences() == {"arena": [0.0] * CASES}
    assert record.measure_positions(50, 0)["arena"] == {"first": 1.0, "first_low": 1.0, "first_high": 1.0}


def test_a_judge_that_draws_lots_has_one_half_in_its_interval() -> None:
    draws = random.Random(0)
    record = judge(lambda a, b: draws.choice("12"), [pair(n, 200, 100) for n in range(CASES)])
    found = record.measure_positions(500, 0)["arena"]
    assert found["first_low"] < 0.5 < found["first_high"]


def test_several_asks_are_several_judges_and_silence_is_counted() -> None:
    record = PairwiseRecord("arena", ["preference", "appeal"], Judge(lambda a, b: "" if b == 7 else "tie"))
    record.add([pair(0, 200, 100), pair(1, 9, 7)])
    assert list(record.find_differences()) == ["arena.preference", "arena.appeal"]
    assert record.reasons == {"it is silent": 2} and record.find_differences()["arena.appeal"][0] == 0
    assert record.measure_positions(50, 0)["arena.appeal"]["first"] is None
