from collections.abc import Callable

import pytest

from agfsync.measures import JudgedImage
from agfsync.measures.t2i_compbench import measure_t2i_compbench


def test_the_probabilities_of_a_prompts_phrases_are_multiplied(judge: Callable[..., JudgedImage]) -> None:
    one = judge(("a green bench?", (), "yes", 0.5), ("a blue bowl?", (), "yes", 0.4), category="color")
    two = judge(("a bench?", (), "yes", 0.9), category="color")
    three = judge(("a round bag?", (), "yes", 0.25), category="shape")
    assert measure_t2i_compbench([one, two, three, JudgedImage("color", 30.0)]) == {
        "color": pytest.approx(55),
        "shape": pytest.approx(25),
    }
    assert measure_t2i_compbench([]) == {}
