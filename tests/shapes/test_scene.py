import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from agfsync.shapes.grammar import invent_spec, list_questions
from agfsync.shapes.scene import (
    BACKGROUNDS,
    LATTICE,
    LOCATIONS,
    MAX_THINGS,
    RADII,
    RELATIONS,
    SIDE,
    CrowdedError,
    Group,
    Scene,
    Spec,
    Thing,
    compose_scene,
    is_at,
    is_related,
    sample_spec,
    scatter_things,
)

RED = Thing("star", "red", "small", "solid", 20.0, 20.0, 6.0)
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def test_a_composed_scene_answers_yes_to_every_question_of_its_specification(category: str, rng: random.Random) -> None:
    for _ in range(60):
        spec = invent_spec(category, rng)
        scene = compose_scene(spec, rng)
        assert all(query.answer(scene) and query.is_clear(scene) for query in list_questions(spec)), (spec, scene)
        assert len(scene.things) == sum(group.count for group in spec.groups) <= MAX_THINGS


def test_things_stand_apart_inside_the_image(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    for scene in [*scenes(80), *(scatter_things(12, rng) for _ in range(20))]:
        assert scene.background in BACKGROUNDS
        for thing in scene.things:
            assert thing.radius == RADII[thing.size]
            assert thing.x % LATTICE == thing.y % LATTICE == 0
            assert thing.radius < min(thing.x, thing.y, SIDE - thing.x, SIDE - thing.y)
        for a, b in combinations(scene.things, 2):
            assert (a.x - b.x) ** 2 + (a.y - b.y) ** 2 > (a.radius + b.radius) ** 2
            assert (a.x // 16, a.y // 16) != (b.x // 16, b.y // 16)


def test_what_a_specification_leaves_open_is_filled_in(rng: random.Random) -> None:
    composed = [compose_scene(Spec((Group("heart"),)), rng) for _ in range(60)]
    for kind in ("color", "size", "material"):
        assert len({getattr(scene.things[0], kind) for scene in composed}) > 1
    assert {scene.background for scene in composed} == set(BACKGROUNDS)


def test_the_same_seed_composes_the_same_scene() -> None:
    spec = Spec((Group("heart", count=2), Group("star", "red")), "left")
    assert (
        compose_scene(spec, random.Random(3))
        == compose_scene(spec, random.Random(3))
        != compose_scene(spec, random.Random(4))
    )


def test_too_much_for_one_image_is_refused() -> None:
    with pytest.raises(CrowdedError, match="no room for"):
        compose_scene(Spec((Group("circle", size="large", count=20),)), random.Random(0))


def test_relations_are_the_two_things_opposite_and_need_a_margin() -> None:
    for relation, (dx, dy) in zip(RELATIONS, [(-9, 0), (9, 0), (0, -9), (0, 9)], strict=True):
        other = replace(RED, x=RED.x - dx, y=RED.y - dy)
        assert is_related(RED, other, relation) and is_related(other, RED, OPPOSITE[relation])
        assert not is_related(other, RED, relation)
        assert not is_related(RED, other, relation, margin=9.0)


def test_corners_and_centre_are_apart() -> None:
    spots = [(x + 0.5, y + 0.5) for x in range(SIDE) for y in range(SIDE)]
    held = [[place for place in LOCATIONS if is_at(replace(RED, x=x, y=y), place)] for x, y in spots]
    assert {place for places in held for place in places} == set(LOCATIONS)
    assert all(len(places) < 2 or "centre" in places for places in held)
    assert all(len([p for p in LOCATIONS if is_at(replace(RED, x=x, y=y), p, -3)]) < 2 for x, y in spots)
    assert is_at(replace(RED, x=19.0, y=5.0), "top left")
    assert not is_at(replace(RED, x=19.0, y=5.0), "top left", slack=-3.0)


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_a_random_specification_keeps_to_its_size_and_its_groups_differ(groups: int, rng: random.Random) -> None:
    for _ in range(50):
        spec = sample_spec(rng, groups, 4)
        assert len(spec.groups) <= groups and sum(group.count for group in spec.groups) <= 4
        assert len({(group.shape, group.color) for group in spec.groups}) == len(spec.groups)


def test_scattered_scenes_are_crowded(rng: random.Random) -> None:
    counts = [len(scatter_things(12, rng).things) for _ in range(20)]
    assert max(counts) > MAX_THINGS and max(counts) <= 12
    assert any(a != b for a, b in pairwise(counts))
