"""Scenes of one to four things on a plain background, and specifications: the content of a scene's caption.

Coordinates are pixels of the 64x64 image, x to the right, y down. A `Spec` has only what its caption mentions;
`compose_scene` draws a scene that fulfils it and chooses everything else at random.

>>> spec = Spec((Group("star", "red", count=2), Group("heart", location="centre")), background="grey")
>>> scene = compose_scene(spec, random.Random(0))
>>> [thing.shape for thing in scene.things], scene.background
(['star', 'star', 'heart'], 'grey')
>>> is_at(scene.things[2], "centre")
True
"""

import math
import random
from dataclasses import dataclass, replace
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
"""The nominal radius in pixels, the unit of the shapes' outlines."""
LATTICE: Final = 8
"""The spacing of things in pixels: one cell of the generator's latents, so that a thing looks the same to it anywhere.

With a spacing of one pixel it would have to learn each thing at 64 offsets.
"""
_EDGE: Final = 1.5
_GAP: Final = 2.5


@dataclass(frozen=True, slots=True)
class ThingKind:
    """A kind of thing; None matches any value.

    >>> ThingKind("star", size="small").fits(Thing("star", "red", "small", "solid", 32.0, 32.0, 6.4))
    True
    """

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    material: str | None = None

    def fits(self, thing: "Thing") -> bool:
        """Return True if `thing` is of this kind."""
        wanted = (self.shape, self.color, self.size, self.material)
        has = (thing.shape, thing.color, thing.size, thing.material)
        return all(want in (None, own) for want, own in zip(wanted, has, strict=True))


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing in a scene: its attributes, its centre and its nominal radius."""

    shape: str
    color: str
    size: str
    material: str
    x: float
    y: float
    radius: float

    @property
    def kind(self) -> ThingKind:
        """The thing's attributes, without its place."""
        return ThingKind(self.shape, self.color, self.size, self.material)


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of an image: everything that is drawn, and that questions ask about."""

    things: tuple[Thing, ...]
    background: str


@dataclass(frozen=True, slots=True)
class Group:
    """`count` things of one kind in a caption; None for what the caption doesn't mention."""

    shape: str
    color: str | None = None
    size: str | None = None
    material: str | None = None
    count: int = 1
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """The content of a caption: its groups, the relation of the first group to the second, the background."""

    groups: tuple[Group, ...]
    relation: str | None = None
    background: str | None = None


class CrowdedError(Exception):
    """The things of a specification don't fit into one image."""


def is_related(a: Thing, b: Thing, relation: str, margin: float = 5.0) -> bool:
    """Return True if the centre of `a` is `relation` of the centre of `b` by more than `margin` pixels."""
    offset = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[relation]
    return offset > margin


def is_at(thing: Thing, location: str, slack: float = 0.0) -> bool:
    """Return True if `thing`'s centre is in a corner (outer 20 pixels) or the centre (inner 22), widened by `slack`.

    Places don't overlap, and no border is where things stand (on every eighth pixel), so half a pixel never decides.
    """
    if location == "centre":
        return max(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) <= 11 + slack
    vertical, horizontal = location.split()
    x = thing.x if horizontal == "left" else SIDE - thing.x
    y = thing.y if vertical == "top" else SIDE - thing.y
    return max(x, y) <= 20 + slack


def compose_scene(spec: Spec, rng: random.Random) -> Scene:
    """Draw a random scene that clearly fulfils `spec`: a thing with a location stands well inside it.

    Raises:
        CrowdedError: no room was found in 60 tries.
    """
    for _ in range(60):
        placed = _place_groups([_complete_group(group, rng) for group in spec.groups], spec.relation, rng)
        if placed is not None:
            return Scene(tuple(placed), spec.background or rng.choice(BACKGROUNDS))
    raise CrowdedError(f"no room for {spec}")


def sample_spec(rng: random.Random, groups: int, things: int) -> Spec:
    """Draw a random specification of at most `groups` groups and `things` things.

    It mentions everything except places and relations. No two groups have the same shape and colour.
    """
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


def scatter_things(count: int, rng: random.Random) -> Scene:
    """Draw a random scene of at most `count` things, which may be denser than any caption asks for."""
    placed: list[Thing] = []
    for _ in range(count):
        thing = _place_thing(_complete_group(Group(rng.choice(SHAPES)), rng), placed, None, None, rng)
        if thing is not None:
            placed.append(thing)
    return Scene(tuple(placed), rng.choice(BACKGROUNDS))


def nearest_to_edge(radius: float) -> int:
    """Return the smallest coordinate at which a thing of `radius` may stand."""
    return math.ceil((radius + _EDGE) / LATTICE) * LATTICE


def _complete_group(group: Group, rng: random.Random) -> Group:
    """Choose the attributes at random that `group` doesn't have."""
    return replace(
        group,
        color=group.color or rng.choice(COLORS),
        size=group.size or rng.choice(SIZES),
        material=group.material or rng.choice(MATERIALS),
    )


def _place_groups(groups: list[Group], relation: str | None, rng: random.Random) -> list[Thing] | None:
    """Place the groups' things at random so that locations and relation hold, or return None if that fails.

    The relation holds between the last thing of the first group and all things of the second.
    """
    placed: list[Thing] = []
    first: Thing | None = None
    for index, group in enumerate(groups):
        for _ in range(group.count):
            thing = _place_thing(group, placed, first, relation if index == 1 else None, rng)
            if thing is None:
                return None
            placed.append(thing)
        first = first or placed[-1]
    return placed


def _place_thing(
    group: Group, placed: list[Thing], first: Thing | None, relation: str | None, rng: random.Random
) -> Thing | None:
    assert group.color and group.size and group.material
    radius = RADII[group.size]
    edge = nearest_to_edge(radius)
    spots = range(edge, SIDE - edge + 1, LATTICE)
    for _ in range(40):
        x, y = float(rng.choice(spots)), float(rng.choice(spots))
        thing = Thing(group.shape, group.color, group.size, group.material, x, y, radius)
        if group.location and not is_at(thing, group.location, slack=-3.0):
            continue
        if relation and first and not _is_clearly_related(first, thing, relation):
            continue
        if all(_are_apart(thing, other) for other in placed):
            return thing
    return None


def _is_clearly_related(a: Thing, b: Thing, relation: str) -> bool:
    along, across = abs(a.x - b.x), abs(a.y - b.y)
    if relation in ("above", "below"):
        along, across = across, along
    return is_related(a, b, relation, margin=12.0) and along > across


def _are_apart(a: Thing, b: Thing) -> bool:
    same_cell = (a.x // 16, a.y // 16) == (b.x // 16, b.y // 16)
    return not same_cell and ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 > a.radius + b.radius + _GAP
