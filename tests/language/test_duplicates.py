from itertools import combinations

import pytest

from agfsync.language import QuestionDraft
from agfsync.language.captions import CAPTION_CATEGORIES
from agfsync.language.duplicates import KeptCaptions, KeptQuestions, telling_words

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
def test_a_word_more_or_less_is_near_another_image_is_not(text: str, near: bool) -> None:
    neighbours = KeptCaptions(0.7)
    neighbours.add(FIRST)
    assert neighbours.is_near(text) is near


def test_at_one_nothing_is_near() -> None:
    neighbours = KeptCaptions(1.0)
    neighbours.add(FIRST)
    assert not neighbours.is_near(FIRST)


def test_adding_twice_is_adding_once() -> None:
    neighbours = KeptCaptions(0.5)
    neighbours.add(FIRST)
    neighbours.add(FIRST.lower())
    assert neighbours.is_near(FIRST)


def test_no_exemplar_is_near_another() -> None:
    for category in CAPTION_CATEGORIES.values():
        neighbours = KeptCaptions(0.4)
        for text in category.exemplars:
            assert not neighbours.is_near(text)
            neighbours.add(text)


def test_half_a_character_is_no_reason_to_stop() -> None:
    neighbours = KeptCaptions(0.7)
    neighbours.add("a cat \ud800 on a mat")
    assert neighbours.is_near("A cat \ud800 on a mat!")


def draft(text: str, element: str = "fox", kind: str = "animal", answer: str = "yes") -> QuestionDraft:
    return QuestionDraft(text, answer, element, kind)


def near(one: QuestionDraft, other: QuestionDraft, similarity: float = 0.8) -> bool:
    kept = KeptQuestions(similarity)
    kept.add(one)
    return kept.is_near(other)


SAME = [
    ["Is there a fox?", "Is a fox visible in the picture?", "Does the image show a fox?", "Are there any foxes?"],
    ["Is the fox red?", "Is there a red fox?", "Does the photo depict a red fox?"],
    ["Is the fox sitting on a mossy log?", "Does the picture show a fox sitting on the mossy log?"],
]
APART = [
    *[("Is the ball red?", "red"), ("Is the ball blue?", "blue"), ("Is the cube red?", "red")],
    *[
        ("Are there two red stars?", "two"),
        ("Are there two blue stars?", "two"),
        ("Are there three red stars?", "three"),
    ],
    ("Is the big red ball on the old wooden table near the open window?", "ball"),
    ("Is the big red ball on the old wooden table near the closed window?", "ball"),
    ("Is the big red ball under the old wooden table near the open window?", "ball"),
    ("Is the big red ball not on the old wooden table near the open window?", "ball"),
    *[("Is the red ball left of the blue cube?", "ball"), ("Is the blue ball left of the red cube?", "ball")],
    *[("Is the star on the circle?", "star"), ("Is the star in the circle?", "star")],
    *[("लाल तारा है?", "तारा"), ("नीला तारा है?", "तारा"), ("C++ ?", "C++"), ("C# ?", "C#")],
]


@pytest.mark.parametrize("texts", SAME)
def test_other_words_for_the_same_are_nearly_the_same(texts: list[str]) -> None:
    for one, other in combinations(texts, 2):
        assert near(draft(one), draft(other)) and near(draft(other), draft(one)), (one, other)


def test_another_fact_is_another_question_however_alike_the_words() -> None:
    for one, other in combinations(APART, 2):
        pair = draft(*one, kind="other"), draft(*other, kind="other")
        assert not near(*pair) and not near(*reversed(pair)), (one, other)


def test_the_type_the_answer_and_the_element_count() -> None:
    one, longer = "Is the old fox asleep on the log by the river?", "Is the old fox asleep on the wet log by the river?"
    assert near(draft(one), draft(longer))
    assert not near(draft(one), draft(longer, element="log"))
    assert not near(draft(one), draft(longer, kind="attribute"))
    assert not near(draft(one), draft(one, kind="attribute"))
    assert not near(draft(one), draft(longer, answer="no"))
    assert near(draft(one), draft(one, element="log")), "equal words ask the same, whatever they are said to be on"
    assert not near(draft(one), draft(longer), similarity=0.95)
    assert not near(draft(one), draft(one), similarity=1.0)


def test_a_question_of_nothing_but_its_frame_keeps_its_words() -> None:
    assert telling_words("Is there a picture?") == ("is", "there", "a", "picture")
    assert telling_words("Does the picture show two foxes?") == ("two", "fox")
