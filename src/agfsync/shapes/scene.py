"""Scenes of one to four things on a plain background, and specifications: what a caption says of a scene.

Coordinates are pixels of the 64x64 picture, x to the right, y down. A `Spec` leaves open what its caption doesn't
mention; `compose` makes up a scene that fulfils it, with everything left open at random.
"""

import math
import random
from dataclasses import dataclass
from typing import Final

SIDE: Final = 64
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "cross")
COLORS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SIZES: Final = ("small", "large")
MATERIALS: Final = ("solid", "striped")
BACKGROUNDS: Final = ("white", "grey", "cream", "black")
RELATIONS: Final = ("left", "right", "above", "below")
LOCATIONS: Final = ("top left", "top right", "bottom left", "bottom right", "centre")
MAX_THINGS: Final = 4

RADII: Final = {"small": 6.4, "large": 10.6}
"""The circumscribed circle's radius."""
LATTICE: Final = 8
"""Things stand on every eighth pixel, one cell of the generator's latents: a thing looks the same to it anywhere.

On any pixel it would have to learn each thing 64 times over.
"""
_EDGE: Final = 1.5
_GAP: Final = 2.5


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a scene: what it is, its centre and the radius of its circumscribed circle."""

    shape: str
    color: str
    size: str
    material: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to draw, and everything there is to ask about."""

    things: tuple[Thing, ...]
    background: str


@dataclass(frozen=True, slots=True)
class Group:
    """`count` alike things as a caption names them; what it doesn't mention is None."""

    shape: str
    color: str | None = None
    size: str | None = None
    material: str | None = None
    count: int = 1
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """What a caption says: its groups, how the first lies to the second, the background."""

    groups: tuple[Group, ...]
    relation: str | None = None
    background: str | None = None


class Crowded(Exception):
    """No room was found for the things of a specification."""


def related(a: Thing, b: Thing, relation: str, margin: float = 5.0) -> bool:
    """Whether `a` lies `relation` of `b`, by more than `margin` pixels between their centres."""
    offset = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[relation]
    return offset > margin


def located(thing: Thing, location: str, slack: float = 0.0) -> bool:
    """Return True if `thing`'s centre is in a corner (outer 20 pixels) or the centre (inner 22), widened by `slack`.

    No two places overlap, and none ends where things stand (on every eighth pixel): half a pixel decides nothing.
    """
    if location == "centre":
        return max(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) <= 11 + slack
    vertical, horizontal = location.split()
    x = thing.x if horizontal == "left" else SIDE - thing.x
    y = thing.y if vertical == "top" else SIDE - thing.y
    return max(x, y) <= 20 + slack


def compose(spec: Spec, rng: random.Random) -> Scene:
    """A scene that fulfils `spec`, clearly: what a caption places stands well inside its place.

    Raises:
        Crowded: no room was found in many tries.
    """
    for _ in range(60):
        groups = [_complete(group, rng) for group in spec.groups]
        placed = _place(groups, spec.relation, rng)
        if placed is not None:
            return Scene(tuple(placed), spec.background or rng.choice(BACKGROUNDS))
    raise Crowded(f"no room for {spec}")


def random_spec(rng: random.Random, groups: int, things: int) -> Spec:
    """A specification of up to `groups` unlike groups and `things` things that mentions everything but places."""
    made: list[Group] = []
    room = things
    while len(made) < groups and room > 0:
        count = rng.choice([1, 1, 2, 3]) if groups < 3 else 1
        group = Group(
            rng.choice(SHAPES), rng.choice(COLORS), rng.choice(SIZES), rng.choice(MATERIALS), min(count, room)
        )
        if all((group.shape, group.color) != (g.shape, g.color) for g in made):
            made.append(group)
            room -= group.count
    return Spec(tuple(made), background=rng.choice(BACKGROUNDS))


def scatter(count: int, rng: random.Random) -> Scene:
    """A scene of up to `count` things wherever there is room: denser than any caption asks for, good to learn from."""
    placed: list[Thing] = []
    for _ in range(count):
        group = _complete(Group(rng.choice(SHAPES)), rng)
        thing = _try_place(group, placed, [], None, rng)
        if thing is not None:
            placed.append(thing)
    return Scene(tuple(placed), rng.choice(BACKGROUNDS))


def _complete(group: Group, rng: random.Random) -> Group:
    """`group` with what it leaves open chosen at random."""
    return Group(
        group.shape,
        group.color or rng.choice(COLORS),
        group.size or rng.choice(SIZES),
        group.material or rng.choice(MATERIALS),
        group.count,
        group.location,
    )


def _place(groups: list[Group], relation: str | None, rng: random.Random) -> list[Thing] | None:
    """The groups' things at random places that fulfil locations and relation, or None if that didn't work out."""
    placed: list[Thing] = []
    anchors: list[Thing] = []
    for group in groups:
        for _ in range(group.count):
            thing = _try_place(group, placed, anchors, relation if len(anchors) == 1 else None, rng)
            if thing is None:
                return None
            placed.append(thing)
        anchors.append(placed[-1])
    return placed


def _try_place(
    group: Group, placed: list[Thing], anchors: list[Thing], relation: str | None, rng: random.Random
) -> Thing | None:
    assert group.color and group.size and group.material
    for _ in range(40):
        radius = RADII[group.size]
        first = math.ceil((radius + _EDGE) / LATTICE) * LATTICE
        spots = range(first, SIDE - first + 1, LATTICE)
        x, y = float(rng.choice(spots)), float(rng.choice(spots))
        thing = Thing(group.shape, group.color, group.size, group.material, x, y, radius)
        if group.location and not located(thing, group.location, slack=-3.0):
            continue
        if relation and not _clearly_related(anchors[0], thing, relation):
            continue
        if all(_apart(thing, other) for other in placed):
            return thing
    return None


def _clearly_related(a: Thing, b: Thing, relation: str) -> bool:
    along, across = (abs(a.x - b.x), abs(a.y - b.y))
    if relation in ("above", "below"):
        along, across = across, along
    return related(a, b, relation, margin=12.0) and along > across


def _apart(a: Thing, b: Thing) -> bool:
    same_cell = (a.x // 16, a.y // 16) == (b.x // 16, b.y // 16)
    far = ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 > a.radius + b.radius + _GAP
    return far and not same_cell
