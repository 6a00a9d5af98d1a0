from collections.abc import Callable

import pytest

from agfsync.measures import JudgedImage
from agfsync.measures.soft_tifa import measure_soft_tifa
from agfsync.records import Answer, Question


def test_the_probabilities_of_the_expected_answers_are_averaged(judge: Callable[..., JudgedImage]) -> None:
    one = judge(("a", (), "yes", 0.9), ("b", (), "no", 0.6))  # 0.9 and 0.4: 0.65 and 0.6
    two = judge(("a", (), "yes", 0.25), ("b", (), "yes", 1.0))  # 0.625 and 0.5
    means = {"arithmetic mean": 63.75, "geometric mean": 55}
    parts = {"arithmetic mean, object": 63.75, "geometric mean, coco": 55}
    assert measure_soft_tifa([one, two]) == pytest.approx(means | parts)
    assert measure_soft_tifa([judge(("a", (), "yes", 0.0), ("b", (), "yes", 1.0))])["geometric mean"] == 0
    assert measure_soft_tifa([JudgedImage("coco", 30.0)]) == {}


def atoms(category: str, *asked: tuple[str, str, float, float]) -> JudgedImage:
    """An image of questions, each with its expected answer, its skill, P(yes) and P(expected answer) of all words."""
    questions = [
        Question(str(n), "c", str(n), answer, "", "other", label=skill) for n, (answer, skill, _, _) in enumerate(asked)
    ]
    answers = {str(n): Answer(str(n), "", p, all_) for n, (_, _, p, all_) in enumerate(asked)}
    return JudgedImage(category, 0.0, questions, answers)


def test_skills_are_pooled_and_the_share_of_the_whole_vocabulary_counts() -> None:
    one = atoms("3 atoms", ("yes", "object", 0.9, 0.8), ("two", "count", 0.2, 0.2))  # 0.5 and 0.4
    two = atoms("4 atoms", ("yes", "object", 0.9, 0.5), ("yes", "object", 0.9, 0.5), ("two", "count", 0.1, 0.1))
    assert measure_soft_tifa([one, two]) == pytest.approx(
        {
            "arithmetic mean": 100 * (0.5 + 1.1 / 3) / 2,
            "geometric mean": 100 * (0.4 + 0.025 ** (1 / 3)) / 2,
            "arithmetic mean, object": 60,
            "arithmetic mean, count": 15,
            "geometric mean, 3 atoms": 40,
            "geometric mean, 4 atoms": 100 * 0.025 ** (1 / 3),
        }
    )
