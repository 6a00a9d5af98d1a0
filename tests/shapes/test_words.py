import random

import pytest

from agfsync.shapes.scene import COLORS, LOCATIONS, MATERIALS, RELATIONS, SHAPES, SIZES, Group, ThingKind
from agfsync.shapes.words import (
    MATERIAL_WORDS,
    PLACES,
    RELATION_WORDS,
    SIZE_WORDS,
    add_article,
    build_noun_phrase,
    parse_noun_phrase,
    parse_place,
    parse_relation,
    vary_noun_phrase,
)


def test_there_are_words_for_everything_in_a_scene() -> None:
    assert tuple(SIZE_WORDS) == SIZES and tuple(MATERIAL_WORDS) == MATERIALS
    assert set(PLACES) == set(LOCATIONS) and set(RELATION_WORDS) == set(RELATIONS)


@pytest.mark.parametrize("shape", [*SHAPES, "object"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_noun_phrase_is_understood_however_it_is_worded(shape: str, count: int, rng: random.Random) -> None:
    worded = set()
    for _ in range(40):
        color, size, material = (rng.choice([*words, None]) for words in (COLORS, SIZES, MATERIALS))
        group = Group(shape, color, size, material, count)
        phrase = vary_noun_phrase(group, rng)
        assert parse_noun_phrase(phrase) == group, phrase
        worded.add(phrase)
    assert len(worded) > 20


@pytest.mark.parametrize(
    ("phrase", "group"),
    [
        ("a small, red star", Group("star", "red", "small")),
        ("Two BIG crosses with stripes", Group("cross", None, "large", "striped", 2)),
        ("a plain circle", Group("circle", material="solid")),
        ("an object", Group("object")),
    ],
)
def test_other_wordings_are_understood(phrase: str, group: Group) -> None:
    assert parse_noun_phrase(phrase) == group


def test_a_questions_noun_phrase_is_plain() -> None:
    assert build_noun_phrase(ThingKind("star", "red", "small", "striped")) == "a small striped red star"
    assert build_noun_phrase(ThingKind(None, "orange")) == "an orange object"
    assert build_noun_phrase(ThingKind("cross"), count=2, article=False) == "crosses"


def test_articles_go_by_the_first_letter() -> None:
    assert (add_article("orange star"), add_article("red star")) == ("an orange star", "a red star")


@pytest.mark.parametrize("place", LOCATIONS)
def test_places_are_understood(place: str) -> None:
    assert parse_place(PLACES[place]) == place


def test_other_words_for_places_are_understood() -> None:
    assert parse_place("at the Upper Right corner") == "top right"
    assert parse_place("in the lower left") == "bottom left"
    assert parse_place("in the center") == parse_place("in the middle") == "centre"
    assert parse_place("in the sky") == ""


def test_relations_are_understood() -> None:
    assert [parse_relation(RELATION_WORDS[relation]) for relation in RELATIONS] == list(RELATIONS)
    assert (parse_relation("over"), parse_relation("under"), parse_relation("and")) == ("above", "below", "")
