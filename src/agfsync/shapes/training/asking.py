"""The questions that the VQA model learns from: as many answered no as yes, and a no is as hard as a yes."""

import random
from collections.abc import Sequence
from dataclasses import replace

from agfsync.records import ElementType
from agfsync.shapes.queries import Query
from agfsync.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    LOCATIONS,
    MATERIALS,
    MAX_THINGS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    ThingKind,
)

ASKED_TYPES: dict[ElementType, float] = {
    "object": 1.0,
    "color": 1.0,
    "shape": 1.0,
    "attribute": 1.0,
    "material": 1.0,
    "counting": 1.5,
    "location": 1.5,
    "spatial": 1.5,
    "other": 0.5,
}
"""Relative frequency of the questions of each type: the harder ones come more often."""
_TRIES = 16
_BORDER = 1.0
"""Pixels by which places may move without changing an answer: a generator's things don't stand exactly in place."""


def ask_questions(
    readings: Sequence[Scene], drawn: Sequence[Thing], count: int, rng: random.Random
) -> list[tuple[Query, bool]]:
    """Return about `count` questions that all `readings` of an image answer alike; half of the answers are no.

    They are on the things `drawn`, on mixtures of two, and on others: in a no the relation or the place is another one,
    the number is off, the colour is another thing's. Fewer come back where an image shows so little that there is
    hardly anything to say yes to.
    """
    asked: list[tuple[Query, bool]] = []
    for wanted in (True, False):
        for element_type in rng.choices(list(ASKED_TYPES), list(ASKED_TYPES.values()), k=count // 2):
            query = _find_sure(element_type, wanted, readings, drawn, rng)
            if query is None:
                query = _find_sure(rng.choice(list(ASKED_TYPES)), wanted, readings, drawn, rng)
            if query is not None:
                asked.append((query, wanted))
    rng.shuffle(asked)
    return asked


def _find_sure(
    element_type: ElementType, wanted: bool, readings: Sequence[Scene], drawn: Sequence[Thing], rng: random.Random
) -> Query | None:
    """Find a question that every reading clearly answers as `wanted`, or return None if none turns up."""
    for _ in range(_TRIES):
        query = _propose_query(element_type, drawn, rng)
        if all(query.answer(scene) is wanted and query.is_clear(scene, _BORDER) for scene in readings):
            return query
    return None


def _propose_query(element_type: ElementType, drawn: Sequence[Thing], rng: random.Random) -> Query:
    kind = _propose_kind(drawn, rng)
    match element_type:
        case "object":
            return Query("object", ThingKind(kind.shape))
        case "attribute":
            return Query("attribute", replace(kind, size=rng.choice(SIZES)))
        case "material":
            return Query("material", replace(kind, material=rng.choice(MATERIALS)))
        case "counting":
            return Query("counting", kind, count=rng.randint(1, MAX_THINGS))
        case "location":
            return Query("location", kind, location=rng.choice(LOCATIONS))
        case "spatial":
            return Query("spatial", kind, relation=rng.choice(RELATIONS), other=_propose_kind(drawn, rng))
        case "other":
            return Query("other", background=rng.choice(BACKGROUNDS))
        case _:
            return Query(element_type, kind)


def _propose_kind(drawn: Sequence[Thing], rng: random.Random) -> ThingKind:
    """Name one of the things by shape and colour, or one's shape with another's colour, or anything."""
    one, other = (rng.choice(drawn), rng.choice(drawn)) if drawn else (None, None)
    luck = rng.random()
    if one is None or other is None or luck > 0.9:
        return ThingKind(rng.choice(SHAPES), rng.choice(COLORS))
    if luck < 0.6:
        return ThingKind(one.shape, one.color)
    if luck < 0.7:
        return ThingKind(one.shape, other.color)
    return ThingKind(one.shape, rng.choice(COLORS)) if luck < 0.8 else ThingKind(rng.choice(SHAPES), one.color)
