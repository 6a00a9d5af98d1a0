import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from agfsync.shapes.grammar import SHAPES_CATEGORIES, describe_scene, garble_spec, invent_spec, list_questions
from agfsync.shapes.queries import Query, ThingKind, parse_query
from agfsync.shapes.scene import Scene, Thing

STAR = Thing("star", "red", "small", "solid", 12.0, 12.0, 6.0)
HEART = Thing("heart", "blue", "large", "striped", 50.0, 14.0, 11.0)
SCENE = Scene((STAR, HEART), "grey")


@pytest.mark.parametrize("category", SHAPES_CATEGORIES)
def test_a_question_says_what_its_query_asks(category: str, rng: random.Random) -> None:
    for _ in range(60):
        for query in list_questions(garble_spec(invent_spec(category, rng), 0.5, rng, drop=0.2)):
            assert parse_query(query.to_text()) == query, query.to_text()


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Is there a star?", True),
        ("Is there a striped star?", False),
        ("Is there a large object?", True),
        ("Is the star red?", True),
        ("Is the heart red?", False),
        ("Is the object purple?", False),
        ("Is the red object a star?", True),
        ("Is the blue object a star?", False),
        ("Is the red star small?", True),
        ("Is the blue heart solid?", False),
        ("Is the blue object striped?", True),
        ("Are there exactly two objects?", True),
        ("Is there exactly one red star?", True),
        ("Are there exactly three stars?", False),
        ("Is the red star in the top left corner?", True),
        ("Is the heart in the upper right corner?", True),
        ("Is the star in the middle?", False),
        ("Is the red star to the left of the blue heart?", True),
        ("Is the star above the heart?", False),
        ("Is the background grey?", True),
        ("Is the background black?", False),
    ],
)
def test_questions_are_answered(text: str, yes: bool) -> None:
    query = parse_query(text)
    assert query is not None
    assert query.answer(SCENE) is yes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Is there a dog?",
        "Is the star shiny?",
        "Is the background purple?",
        "Is the red object a lamp?",
        "Are there exactly seven stars?",
        "Is the star in the sky?",
        "Is the star behind the heart?",
        "How many stars are there?",
        "Is there a star? Yes",
    ],
)
def test_a_question_of_another_world_is_none(text: str) -> None:
    assert parse_query(text) is None


def test_a_question_near_the_line_is_not_clear() -> None:
    placed = Query("location", ThingKind("star"), location="top left")
    beside = Query("spatial", ThingKind("star"), relation="left", other=ThingKind("heart"))
    assert placed.is_clear(SCENE) and beside.is_clear(SCENE)
    assert not placed.is_clear(Scene((replace(STAR, x=23.0), HEART), "grey"))
    assert not beside.is_clear(Scene((replace(STAR, x=45.0, y=50.0), HEART), "grey"))


def test_a_clear_answer_outlasts_a_small_move(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    def moved(thing: Thing) -> Thing:
        return replace(thing, x=thing.x + rng.uniform(-1.5, 1.5), y=thing.y + rng.uniform(-1.5, 1.5))

    answers = []
    for scene in scenes(60):
        asked = list_questions(garble_spec(describe_scene(scene, rng), 0.4, rng))
        for query in (query for query in asked if query.is_clear(scene)):
            answers.append(query.answer(scene))
            assert query.answer(Scene(tuple(map(moved, scene.things)), scene.background)) == answers[-1]
    assert 0.3 < sum(answers) / len(answers) < 0.9


def test_a_kind_that_says_nothing_fits_everything() -> None:
    assert all(ThingKind().fits(thing) for thing in SCENE.things)
    assert [ThingKind(color="red", size="small").fits(thing) for thing in SCENE.things] == [True, False]


@pytest.mark.parametrize(
    ("question", "opposite"),
    [
        ("Is there a star?", "Is there a heart?"),
        ("Is the star red?", "Is the star orange?"),
        ("Is the red star large?", "Is the red star small?"),
        ("Is the red star striped?", "Is the red star solid?"),
        ("Is the red object a cross?", "Is the red object a circle?"),
        ("Are there exactly four stars?", "Is there exactly one star?"),
        ("Is the star above the heart?", "Is the star below the heart?"),
        ("Is the background black?", "Is the background white?"),
    ],
)
def test_the_opposite_asks_for_another_value(question: str, opposite: str) -> None:
    query = parse_query(question)
    assert query is not None and query.oppose().to_text() == opposite
    assert query.oppose().element_type == query.element_type
