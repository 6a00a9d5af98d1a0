import pytest

from agfsync.language.categories import CATEGORIES
from agfsync.language.duplicates import Neighbours

FIRST = "A tabby cat on a windowsill watches a blackbird through glass covered in raindrops, late in the afternoon"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (FIRST.upper() + "!", True),
        (FIRST.replace("tabby", "ginger"), True),
        (FIRST + " of a grey day", True),
        ("A ginger cat asleep in a cardboard box, one paw over its nose", False),
        ("A cat", False),
        ("", False),
    ],
)
def test_a_word_more_or_less_is_near_another_picture_is_not(text: str, near: bool) -> None:
    neighbours = Neighbours(0.7)
    neighbours.add(FIRST)
    assert neighbours.near(text) is near


def test_at_one_nothing_is_near() -> None:
    neighbours = Neighbours(1.0)
    neighbours.add(FIRST)
    assert not neighbours.near(FIRST)


def test_adding_twice_is_adding_once() -> None:
    neighbours = Neighbours(0.5)
    neighbours.add(FIRST)
    neighbours.add(FIRST.lower())
    assert neighbours.near(FIRST)


def test_no_exemplar_is_near_another() -> None:
    for category in CATEGORIES.values():
        neighbours = Neighbours(0.4)
        for text in category.exemplars:
            assert not neighbours.near(text)
            neighbours.add(text)


def test_half_a_character_is_no_reason_to_stop() -> None:
    neighbours = Neighbours(0.7)
    neighbours.add("a cat \ud800 on a mat")
    assert neighbours.near("A cat \ud800 on a mat!")
