from collections.abc import Callable

import pytest

from agfsync.measures import JudgedImage
from agfsync.measures.tifa import measure_tifa


def test_captions_count_alike_and_types_are_pooled(judge: Callable[..., JudgedImage]) -> None:
    one = judge(("a", (), "yes", 0.9), ("b", (), "yes", 0.1), ("c", (), "no", 0.2), ("d", (), "no", 0.9))
    two = judge(("a", (), "yes", 0.9))
    three = judge(("a", (), "yes", 0.2), ("b", (), "yes", 0.7), element_type="color")
    # 1/2, 1 and 1/2 of the questions are right; of objects 3 of 5, of colours 1 of 2.
    assert measure_tifa([one, two, three]) == {
        "mean over captions": pytest.approx(200 / 3),
        "standard deviation": pytest.approx(100 * (1 / 12) ** 0.5),
        "accuracy, color": 50,
        "accuracy, object": 60,
    }


def test_a_judge_that_asks_nothing_has_no_figure(judge: Callable[..., JudgedImage]) -> None:
    assert measure_tifa([JudgedImage("coco", 30.0)]) == measure_tifa([]) == {}
    assert measure_tifa([judge(("a", (), "yes", 0.9))]) == {"mean over captions": 100, "accuracy, object": 100}
