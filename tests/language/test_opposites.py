import pytest

from agfsync.language.opposites import oppose_question


@pytest.mark.parametrize(
    ("question", "opposite"),
    [
        ("Is there a dog?", "Is there no dog?"),
        ("are there any dogs in the picture?", "are there no dogs in the picture?"),
        ("Are there two dogs?", 'Is the answer to the question "Are there two dogs?" no?'),
        (" Does the dog run? ", 'Is the answer to the question "Does the dog run?" no?'),
    ],
)
def test_the_opposite_asks_for_the_other_answer(question: str, opposite: str) -> None:
    assert oppose_question(question) == opposite
