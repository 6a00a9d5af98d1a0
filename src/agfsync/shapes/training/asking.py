"""The VQA model's training questions: equally many are answered no and yes, and both are equally hard."""

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
"""Relative frequency of the questions of each type: harder ones are more frequent."""
_TRIES = 16
_BORDER = 1.0
"""Pixels by which a thing may move without changing an answer, since a generator doesn't place things exactly."""


def ask_questions(
    readings: Sequence[Scene], drawn: Sequence[Thing], count: int, rng: random.Random
) -> list[tuple[Query, bool]]:
    """Return about `count` questions to which all `readings` of an image give the same answer; half the answers are no.

    The questions are on the things `drawn`, on mixtures of two of them, and on other things. If the answer is no, the
    relation, the place or the number is wrong, or the colour is that of another thing. Images that show little give
    fewer questions, since hardly any is answered yes.
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
    """Find a question that every reading clearly answers as `wanted`, or return None if no try finds one."""
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
    """Return the shape and colour of a drawn thing, a mixture of two things, or partly or wholly random ones."""
    one, other = (rng.choice(drawn), rng.choice(drawn)) if drawn else (None, None)
    luck = rng.random()
    if one is None or other is None or luck > 0.9:
        return ThingKind(rng.choice(SHAPES), rng.choice(COLORS))
    if luck < 0.6:
        return ThingKind(one.shape, one.color)
    if luck < 0.7:
        return ThingKind(one.shape, other.color)
    return ThingKind(one.shape, rng.choice(COLORS)) if luck < 0.8 else ThingKind(rng.choice(SHAPES), one.color)
