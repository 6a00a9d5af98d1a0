from collections.abc import Callable

from agfsync.measures import JudgedImage
from agfsync.measures.dsg import measure_dsg


def test_a_child_counts_only_if_its_direct_parents_are_right(judge: Callable[..., JudgedImage]) -> None:
    # The motorcycle is missing; its door is there nevertheless; the door's colour counts by the door alone.
    one = judge(
        ("Is there a motorcycle?", (), "yes", 0.1),
        ("Is there a door?", ("is there a Motorcycle?",), "yes", 0.9),
        ("Is the door red?", ("Is there a door?",), "yes", 0.9),
        ("Is it parked?", ("Is there a door?", "Is there a motorcycle?"), "yes", 0.9),
    )
    assert measure_dsg([one]) == {"with dependencies": 25, "without": 75}
    two = judge(("Is there a dog?", (), "yes", 0.9), ("Is it big?", ("Is there a dog?",), "yes", 0.1))
    assert measure_dsg([one, two]) == {"with dependencies": 37.5, "without": 62.5}
    assert measure_dsg([JudgedImage("coco", 30.0)]) == {}
