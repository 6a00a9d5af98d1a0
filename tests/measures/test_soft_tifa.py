from collections.abc import Callable

import pytest

from agfsync.measures import JudgedImage
from agfsync.measures.soft_tifa import measure_soft_tifa


def test_the_probabilities_of_the_expected_answers_are_averaged(judge: Callable[..., JudgedImage]) -> None:
    one = judge(("a", (), "yes", 0.9), ("b", (), "no", 0.6))  # 0.9 and 0.4: 0.65 and 0.6
    two = judge(("a", (), "yes", 0.25), ("b", (), "yes", 1.0))  # 0.625 and 0.5
    expected = {"arithmetic mean": pytest.approx(63.75), "geometric mean": pytest.approx(55)}
    assert measure_soft_tifa([one, two]) == expected
    assert measure_soft_tifa([judge(("a", (), "yes", 0.0), ("b", (), "yes", 1.0))])["geometric mean"] == 0
    assert measure_soft_tifa([JudgedImage("coco", 30.0)]) == {}
