"""Captions: a specification in words, and back.

`write` words a specification in many ways; `read` understands every one of them, as a language model would understand a
caption. `invent` makes up specifications by category; `garble` drops and swaps what a caption says, as web captions do.
"""

import random
import re
from dataclasses import replace
from typing import Final

from agfsync.shapes.queries import Kind, Query
from agfsync.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    LOCATIONS,
    MATERIALS,
    MAX_THINGS,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    Spec,
    located,
    related,
)
from agfsync.shapes.words import (
    NOUN_PHRASE,
    NUMBERS,
    PLACE_PHRASE,
    parse_noun_phrase,
    place_of,
    relation_of,
    varied_noun_phrase,
)

CATEGORIES: Final = (
    "Single Objects",
    "Attribute Binding",
    "Counting",
    "Spatial Relations",
    "Locations",
    "Complex Scenes",
)
_OPENINGS: Final = ("", "", "", "a picture of ", "a drawing of ", "an image showing ")
_JOINS: Final = (" and ", " with ", " together with ")
_RELATION_PHRASES: Final = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_OPPOSITES: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}
_NEXT_TO: Final = {
    "centre": ("top left", "top right", "bottom left", "bottom right"),
    "top left": ("top right", "bottom left", "centre"),
    "top right": ("top left", "bottom right", "centre"),
    "bottom left": ("top left", "bottom right", "centre"),
    "bottom right": ("top right", "bottom left", "centre"),
}
_GROUP: Final = rf"(?:an?|{'|'.join(NUMBERS.values())}) {NOUN_PHRASE}(?: {PLACE_PHRASE})?"


def write(spec: Spec, rng: random.Random) -> str:
    """A caption that says what `spec` says, its wording varied."""
    phrases = [varied_noun_phrase(group, rng) + _place_words(group.location, rng) for group in spec.groups]
    if spec.relation and len(phrases) > 1:
        joint = f"{phrases[0]} {rng.choice(_RELATION_PHRASES[spec.relation])} {phrases[1]}"
        phrases = [joint, *phrases[2:]]
    body = rng.choice(_OPENINGS) + _listed(phrases, rng)
    if spec.background is None:
        return body
    ground = f"{rng.choice(('on', 'against'))} a {spec.background} background"
    return f"{ground}, {body}" if rng.random() < 0.2 else f"{body} {ground}"


def read(caption: str) -> Spec:
    """What a caption says. Words that this grammar doesn't know are passed over."""
    text = caption.lower()
    ground = re.search(r"\b(\w+) background\b", text)
    background = ground.group(1) if ground and ground.group(1) in BACKGROUNDS else None
    found = list(re.finditer(_GROUP, text))
    groups = tuple(_group(match.group()) for match in found)
    between = text[found[0].end() : found[1].start()] if len(found) > 1 else ""
    return Spec(groups, relation_of(between) or None, background)


def questions(spec: Spec) -> list[Query]:
    """Every atomic question that `spec` answers with yes, in the paper's element types."""
    asked: list[Query] = []
    for group in spec.groups:
        asked += _about(group)
    if spec.relation and len(spec.groups) > 1:
        one, two = (Kind(group.shape, group.color) for group in spec.groups[:2])
        asked.append(Query("spatial", one, relation=spec.relation, other=two))
    if spec.background:
        asked.append(Query("other", background=spec.background))
    return asked


def foils(spec: Spec, rng: random.Random) -> list[tuple[Query, Query]]:
    """Return questions that `spec` answers with no, each after the question on the same thing that it answers with yes.

    A foil is false in every scene that fulfils `spec` word by word: "a red star" is one star and no blue one. What
    `spec` merely leaves out, such as another object, is no foil: a picture may have it. The wrong place is a neighbour,
    the wrong number is off by one, the wrong relation the opposite.
    """
    pairs: list[tuple[Query, Query]] = []
    for index, group in enumerate(spec.groups):
        pairs += _denied(group, [other for i, other in enumerate(spec.groups) if i != index], rng)
    if spec.relation and len(spec.groups) > 1:
        one, two, *rest = spec.groups
        alone = not _alike(one, two) and not any(_alike(each, other) for each in (one, two) for other in rest)
        if alone and one.count == two.count == 1:
            stated = Query(
                "spatial", Kind(one.shape, one.color), relation=spec.relation, other=Kind(two.shape, two.color)
            )
            pairs.append((stated, replace(stated, relation=_OPPOSITES[spec.relation])))
    if spec.background:
        stated = Query("other", background=spec.background)
        pairs.append((stated, replace(stated, background=_another(BACKGROUNDS, spec.background, rng))))
    return pairs


def _denied(group: Group, others: list[Group], rng: random.Random) -> list[tuple[Query, Query]]:
    """Return each question on `group` with one that `group` rules out and none of `others` makes true."""
    named = Kind(group.shape, group.color)
    pairs: list[tuple[Query, Query]] = []
    if group.color:
        colors = [c for c in COLORS if not any(_alike(replace(group, color=c), other) for other in (group, *others))]
        shapes = [s for s in SHAPES if not any(_alike(replace(group, shape=s), other) for other in (group, *others))]
        if colors:
            pairs.append((Query("color", named), Query("color", Kind(group.shape, rng.choice(colors)))))
        if shapes:
            pairs.append((Query("shape", named), Query("shape", Kind(rng.choice(shapes), group.color))))
    if any(_alike(group, other) for other in others):
        return pairs
    if group.size:
        stated = Query("attribute", replace(named, size=group.size))
        pairs.append((stated, Query("attribute", replace(named, size=_another(SIZES, group.size, rng)))))
    if group.material:
        stated = Query("material", replace(named, material=group.material))
        pairs.append((stated, Query("material", replace(named, material=_another(MATERIALS, group.material, rng)))))
    if group.count > 1:
        stated = Query("counting", named, count=group.count)
        wrong = rng.choice([n for n in (group.count - 1, group.count + 1) if n <= MAX_THINGS])
        pairs.append((stated, replace(stated, count=wrong)))
    if group.location:
        place = rng.choice(_NEXT_TO[group.location])
        pairs.append((Query("location", named, location=group.location), Query("location", named, location=place)))
    return pairs


def _alike(one: Group, other: Group) -> bool:
    """Return True if a thing of one group may be one that the other names by shape and colour."""
    same_color = one.color is None or other.color is None or one.color == other.color
    return one.shape == other.shape and same_color


def _another(choices: tuple[str, ...], than: str, rng: random.Random) -> str:
    return rng.choice([choice for choice in choices if choice != than])


def invent(category: str, rng: random.Random) -> Spec:
    """A specification of `category`."""
    maker = {
        "Single Objects": _single,
        "Attribute Binding": _binding,
        "Counting": _counting,
        "Spatial Relations": _spatial,
        "Locations": _locations,
        "Complex Scenes": _complex,
    }[category]
    return maker(rng)


def describe(scene: Scene, rng: random.Random) -> Spec:
    """A full specification of `scene`: alike things grouped, a place or a relation that holds mentioned."""
    things = list(scene.things)
    rng.shuffle(things)
    kinds = list(dict.fromkeys((t.shape, t.color, t.size, t.material) for t in things))
    groups = []
    for shape, color, size, material in kinds:
        alike = [t for t in things if (t.shape, t.color, t.size, t.material) == (shape, color, size, material)]
        places = [place for place in LOCATIONS if len(alike) == 1 and located(alike[0], place, -3)]
        groups.append(Group(shape, color, size, material, len(alike), rng.choice(places) if places else None))
    relations = [r for r in RELATIONS if len(things) > 1 and related(things[0], things[-1], r, 8)]
    ends = [next(i for i, k in enumerate(kinds) if k == (t.shape, t.color, t.size, t.material)) for t in things]
    if not relations or ends[0] == ends[-1] or groups[ends[0]].count + groups[ends[-1]].count > 2:
        return Spec(tuple(groups), None, scene.background)
    order = [ends[0], ends[-1], *(i for i in range(len(groups)) if i not in (ends[0], ends[-1]))]
    return Spec(tuple(groups[i] for i in order), rng.choice(relations), scene.background)


def garble(spec: Spec, rate: float, rng: random.Random, drop: float = 0.0) -> Spec:
    """`spec` with each of its attributes swapped for another of its sort with probability `rate`, dropped with `drop`.

    A shape is never dropped; a count is swapped half as often, and never dropped.
    """

    def swap(value: str | None, choices: tuple[str, ...], may_drop: bool = True) -> str | None:
        if value is None:
            return None
        luck = rng.random()
        if luck < rate:
            return rng.choice([choice for choice in choices if choice != value])
        return None if may_drop and luck < rate + drop else value

    def group(g: Group) -> Group:
        count = rng.choice([n for n in (1, 2, 3) if n != g.count]) if rng.random() < rate / 2 else g.count
        return Group(
            swap(g.shape, SHAPES, may_drop=False) or g.shape,
            swap(g.color, COLORS),
            swap(g.size, SIZES),
            swap(g.material, MATERIALS),
            count,
            swap(g.location, LOCATIONS),
        )

    return Spec(
        tuple(group(g) for g in spec.groups), swap(spec.relation, RELATIONS), swap(spec.background, BACKGROUNDS)
    )


def _about(group: Group) -> list[Query]:
    """The questions on one group: that it is there, then each thing that is said of it."""
    named = Kind(group.shape, group.color)
    asked = [Query("object", Kind(group.shape))]
    if group.color:
        asked += [Query("color", named), Query("shape", named)]
    if group.size:
        asked.append(Query("attribute", replace(named, size=group.size)))
    if group.material:
        asked.append(Query("material", replace(named, material=group.material)))
    if group.count > 1:
        asked.append(Query("counting", named, count=group.count))
    if group.location:
        asked.append(Query("location", named, location=group.location))
    return asked


def _group(text: str) -> Group:
    place = re.search(rf" {PLACE_PHRASE}$", text)
    phrase = text[: place.start()] if place else text
    return replace(parse_noun_phrase(phrase), location=place_of(place.group()) if place else None)


def _place_words(location: str | None, rng: random.Random) -> str:
    if location is None:
        return ""
    if location == "centre":
        return rng.choice((" in the centre", " in the middle"))
    vertical, horizontal = location.split()
    other = {"top": "upper", "bottom": "lower"}[vertical]
    return rng.choice((f" in the {location} corner", f" at the {location}", f" in the {other} {horizontal} corner"))


def _listed(phrases: list[str], rng: random.Random) -> str:
    *most, last = phrases
    return ", ".join(most) + rng.choice(_JOINS) + last if most else last


def _some(rng: random.Random, *, unlike: Group | None = None, detail: float = 0.4, count: int = 1) -> Group:
    """A group of other shape and colour than `unlike`; it mentions size and material with probability `detail` each."""
    return Group(
        rng.choice([s for s in SHAPES if unlike is None or s != unlike.shape]),
        rng.choice([c for c in COLORS if unlike is None or c != unlike.color]),
        rng.choice(SIZES) if rng.random() < detail else None,
        rng.choice(MATERIALS) if rng.random() < detail else None,
        count,
    )


def _ground(rng: random.Random, chance: float) -> str | None:
    return rng.choice(BACKGROUNDS) if rng.random() < chance else None


def _single(rng: random.Random) -> Spec:
    return Spec((_some(rng, detail=0.7),), background=_ground(rng, 0.7))


def _binding(rng: random.Random) -> Spec:
    one = _some(rng, detail=0.6)
    return Spec((one, _some(rng, unlike=one, detail=0.6)), background=_ground(rng, 0.3))


def _counting(rng: random.Random) -> Spec:
    count = rng.choice([2, 2, 3, 3, 4])
    one = _some(rng, count=count)
    if count == MAX_THINGS or rng.random() < 0.5:
        return Spec((one,), background=_ground(rng, 0.4))
    more = rng.choice([n for n in (1, 1, 2) if n + count <= MAX_THINGS])
    return Spec((one, _some(rng, unlike=one, count=more)), background=_ground(rng, 0.2))


def _spatial(rng: random.Random) -> Spec:
    one = _some(rng, detail=0.25)
    two = _some(rng, unlike=one, detail=0.25)
    return Spec((one, two), rng.choice(RELATIONS), _ground(rng, 0.3))


def _locations(rng: random.Random) -> Spec:
    first, second = rng.sample(LOCATIONS, 2)
    one = replace(_some(rng, detail=0.4), location=first)
    if rng.random() < 0.5:
        return Spec((one,), background=_ground(rng, 0.5))
    two = _some(rng, unlike=one, detail=0.3)
    return Spec((one, replace(two, location=second)), background=_ground(rng, 0.3))


def _complex(rng: random.Random) -> Spec:
    shapes, colors = rng.sample(SHAPES, 3), rng.sample(COLORS, 3)
    groups = [replace(_some(rng), shape=s, color=c) for s, c in zip(shapes, colors, strict=True)]
    groups[2] = replace(groups[2], count=rng.choice([1, 1, 2]))
    return Spec(tuple(groups), rng.choice((*RELATIONS, None)), _ground(rng, 0.6))
