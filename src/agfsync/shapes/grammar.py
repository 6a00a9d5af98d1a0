"""Captions of the Shapes world: from specifications to texts and back.

`write_caption` varies the wording of a specification; `parse_caption` understands every wording, as a language model
would understand a caption. `invent_spec` draws random specifications by category. `garble_spec` drops and swaps
attributes, like the errors of web captions.

>>> write_caption(Spec((Group("star", "red", count=2),), background="grey"), random.Random(1))
'two red stars on a grey background'
>>> spec = parse_caption("A tiny red star above two striped hearts on a grey background")
>>> spec.groups[1], spec.relation
(Group(shape='heart', color=None, size=None, material='striped', count=2, location=None), 'above')
>>> [query.to_text() for query in list_questions(spec)][:4]
['Is there a star?', 'Is the star red?', 'Is the red object a star?', 'Is the red star small?']
>>> [(yes.to_text(), no.to_text()) for yes, no in list_foils(spec, random.Random(0))][-1]
('Is the background grey?', 'Is the background black?')
"""

import random
import re
from dataclasses import replace
from typing import Final

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
    Group,
    Scene,
    Spec,
    ThingKind,
    is_at,
    is_related,
)
from agfsync.shapes.words import (
    NOUN_PHRASE,
    NUMBERS,
    PLACE_PHRASE,
    parse_noun_phrase,
    parse_place,
    parse_relation,
    vary_noun_phrase,
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


def write_caption(spec: Spec, rng: random.Random) -> str:
    """Return a caption that states `spec`, in random wording."""
    phrases = [vary_noun_phrase(group, rng) + _place_words(group.location, rng) for group in spec.groups]
    if spec.relation and len(phrases) > 1:
        joint = f"{phrases[0]} {rng.choice(_RELATION_PHRASES[spec.relation])} {phrases[1]}"
        phrases = [joint, *phrases[2:]]
    opening = rng.choice(_OPENINGS)
    *most, last = phrases
    body = opening + (", ".join(most) + rng.choice(_JOINS) + last if most else last)
    if spec.background is None:
        return body
    ground = f"{rng.choice(('on', 'against'))} a {spec.background} background"
    return f"{ground}, {body}" if rng.random() < 0.2 else f"{body} {ground}"


def parse_caption(caption: str) -> Spec:
    """Return the specification that a caption states. Words that the grammar doesn't know are ignored."""
    text = caption.lower()
    ground = re.search(r"\b(\w+) background\b", text)
    background = ground.group(1) if ground and ground.group(1) in BACKGROUNDS else None
    found = list(re.finditer(_GROUP, text))
    groups = tuple(_read_group(match.group()) for match in found)
    between = text[found[0].end() : found[1].start()] if len(found) > 1 else ""
    return Spec(groups, parse_relation(between) or None, background)


def list_questions(spec: Spec) -> list[Query]:
    """Return all atomic questions that `spec` answers with yes, in the paper's element types."""
    asked = [query for group in spec.groups for query in _about_group(group)]
    if spec.relation and len(spec.groups) > 1:
        one, two = (_named(group) for group in spec.groups[:2])
        asked.append(Query("spatial", one, relation=spec.relation, other=two))
    if spec.background:
        asked.append(Query("other", background=spec.background))
    return asked


def list_foils(spec: Spec, rng: random.Random) -> list[tuple[Query, Query]]:
    """Return pairs of questions on the same thing: one that `spec` answers with yes, and a foil, answered with no.

    A foil is false in every scene that fulfils `spec` literally: "a red star" is one star and no blue one. Something
    that `spec` only leaves out, such as another object, doesn't make a foil, since an image may show it. The wrong
    place is a neighbour, the wrong number is off by one, the wrong relation is the opposite.
    """
    pairs: list[tuple[Query, Query]] = []
    for index, group in enumerate(spec.groups):
        others = [*spec.groups[:index], *spec.groups[index + 1 :]]
        foils = [(query, _deny(query, group, others, rng)) for query in _about_group(group)]
        pairs += [(query, foil) for query, foil in foils if foil is not None]
    for query in list_questions(spec):
        if query.element_type == "spatial":
            one, two, *rest = spec.groups
            alone = not _are_alike(one, two) and not any(_are_alike(g, other) for g in (one, two) for other in rest)
            if alone and one.count == two.count == 1:
                pairs.append((query, replace(query, relation=_OPPOSITES[query.relation])))
        elif query.element_type == "other":
            pairs.append((query, replace(query, background=_another(BACKGROUNDS, query.background, rng))))
    return pairs


def _about_group(group: Group) -> list[Query]:
    """Return the questions on one group: on its presence, then on each of its attributes."""
    named = _named(group)
    asked = [Query("object", ThingKind(group.shape))]
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


def _deny(query: Query, group: Group, others: list[Group], rng: random.Random) -> Query | None:
    """Change a question on `group` so that `group` rules it out and none of `others` makes it true, or return None."""
    kind = query.kind
    if query.element_type in ("color", "shape"):
        recolor = query.element_type == "color"
        changed = [replace(group, color=c) for c in COLORS] if recolor else [replace(group, shape=s) for s in SHAPES]
        free = [new for new in changed if not any(_are_alike(new, other) for other in (group, *others))]
        return replace(query, kind=_named(rng.choice(free))) if free else None
    if query.element_type == "object" or any(_are_alike(group, other) for other in others):
        return None
    match query.element_type:
        case "attribute":
            return replace(query, kind=replace(kind, size=_another(SIZES, kind.size, rng)))
        case "material":
            return replace(query, kind=replace(kind, material=_another(MATERIALS, kind.material, rng)))
        case "counting":
            near = [n for n in (query.count - 1, query.count + 1) if n <= MAX_THINGS]
            return replace(query, count=rng.choice(near))
        case _:
            return replace(query, location=rng.choice(_NEXT_TO[query.location]))


def _named(group: Group) -> ThingKind:
    """Return the kind that names a group in a question: its shape and colour."""
    return ThingKind(group.shape, group.color)


def _are_alike(one: Group, other: Group) -> bool:
    """Return True if the groups have the same shape, and the same colour unless one of them has none."""
    return one.shape == other.shape and (None in (one.color, other.color) or one.color == other.color)


def _another(choices: tuple[str, ...], than: str | None, rng: random.Random) -> str:
    return rng.choice([choice for choice in choices if choice != than])


def invent_spec(category: str, rng: random.Random) -> Spec:
    """Draw a random specification of `category`, one of `SHAPES_CATEGORIES`."""
    return _MAKERS[category](rng)


def describe_scene(scene: Scene, rng: random.Random) -> Spec:
    """Return a full specification of `scene`: things grouped by kind, with places and a relation that hold."""
    things = list(scene.things)
    rng.shuffle(things)
    kinds = list(dict.fromkeys(thing.kind for thing in things))
    groups = []
    for kind in kinds:
        alike = [thing for thing in things if thing.kind == kind]
        places = [place for place in LOCATIONS if len(alike) == 1 and is_at(alike[0], place, -3)]
        one, place = alike[0], rng.choice(places) if places else None
        groups.append(Group(one.shape, one.color, one.size, one.material, len(alike), place))
    relations = [r for r in RELATIONS if len(things) > 1 and is_related(things[0], things[-1], r, 8)]
    first, last = kinds.index(things[0].kind), kinds.index(things[-1].kind)
    if not relations or first == last or groups[first].count + groups[last].count > 2:
        return Spec(tuple(groups), None, scene.background)
    order = [first, last, *(i for i in range(len(groups)) if i not in (first, last))]
    return Spec(tuple(groups[i] for i in order), rng.choice(relations), scene.background)


def garble_spec(spec: Spec, rate: float, rng: random.Random, drop: float = 0.0) -> Spec:
    """Swap each attribute of `spec` for another value with probability `rate`, or drop it with probability `drop`.

    A shape is never dropped. A count is swapped half as often and never dropped.
    """

    def swap(value: str | None, choices: tuple[str, ...], may_drop: bool = True) -> str | None:
        if value is None:
            return None
        luck = rng.random()
        if luck < rate:
            return _another(choices, value, rng)
        return None if may_drop and luck < rate + drop else value

    def garble_group(group: Group) -> Group:
        count = rng.choice([n for n in (1, 2, 3) if n != group.count]) if rng.random() < rate / 2 else group.count
        return Group(
            swap(group.shape, SHAPES, may_drop=False) or group.shape,
            swap(group.color, COLORS),
            swap(group.size, SIZES),
            swap(group.material, MATERIALS),
            count,
            swap(group.location, LOCATIONS),
        )

    groups = tuple(garble_group(group) for group in spec.groups)
    return Spec(groups, swap(spec.relation, RELATIONS), swap(spec.background, BACKGROUNDS))


def _read_group(text: str) -> Group:
    place = re.search(rf" {PLACE_PHRASE}$", text)
    phrase = text[: place.start()] if place else text
    return replace(parse_noun_phrase(phrase), location=parse_place(place.group()) if place else None)


def _place_words(location: str | None, rng: random.Random) -> str:
    if location is None:
        return ""
    if location == "centre":
        return rng.choice((" in the centre", " in the middle"))
    vertical, horizontal = location.split()
    other = {"top": "upper", "bottom": "lower"}[vertical]
    return rng.choice((f" in the {location} corner", f" at the {location}", f" in the {other} {horizontal} corner"))


def _make_group(rng: random.Random, *, unlike: Group | None = None, detail: float = 0.4, count: int = 1) -> Group:
    """Draw a random group that differs from `unlike` in shape and colour.

    Size and material are given with probability `detail` each.
    """
    return Group(
        rng.choice([s for s in SHAPES if unlike is None or s != unlike.shape]),
        rng.choice([c for c in COLORS if unlike is None or c != unlike.color]),
        rng.choice(SIZES) if rng.random() < detail else None,
        rng.choice(MATERIALS) if rng.random() < detail else None,
        count,
    )


def _make_background(rng: random.Random, chance: float) -> str | None:
    return rng.choice(BACKGROUNDS) if rng.random() < chance else None


def _make_single(rng: random.Random) -> Spec:
    return Spec((_make_group(rng, detail=0.7),), background=_make_background(rng, 0.7))


def _make_binding(rng: random.Random) -> Spec:
    one = _make_group(rng, detail=0.6)
    return Spec((one, _make_group(rng, unlike=one, detail=0.6)), background=_make_background(rng, 0.3))


def _make_counting(rng: random.Random) -> Spec:
    count = rng.choice([2, 2, 3, 3, 4])
    one = _make_group(rng, count=count)
    if count == MAX_THINGS or rng.random() < 0.5:
        return Spec((one,), background=_make_background(rng, 0.4))
    more = rng.choice([n for n in (1, 1, 2) if n + count <= MAX_THINGS])
    return Spec((one, _make_group(rng, unlike=one, count=more)), background=_make_background(rng, 0.2))


def _make_spatial(rng: random.Random) -> Spec:
    one = _make_group(rng, detail=0.25)
    two = _make_group(rng, unlike=one, detail=0.25)
    return Spec((one, two), rng.choice(RELATIONS), _make_background(rng, 0.3))


def _make_locations(rng: random.Random) -> Spec:
    first, second = rng.sample(LOCATIONS, 2)
    one = replace(_make_group(rng), location=first)
    if rng.random() < 0.5:
        return Spec((one,), background=_make_background(rng, 0.5))
    two = _make_group(rng, unlike=one, detail=0.3)
    return Spec((one, replace(two, location=second)), background=_make_background(rng, 0.3))


def _make_complex(rng: random.Random) -> Spec:
    shapes, colors = rng.sample(SHAPES, 3), rng.sample(COLORS, 3)
    groups = [replace(_make_group(rng), shape=s, color=c) for s, c in zip(shapes, colors, strict=True)]
    groups[2] = replace(groups[2], count=rng.choice([1, 1, 2]))
    return Spec(tuple(groups), rng.choice((*RELATIONS, None)), _make_background(rng, 0.6))


_MAKERS: Final = {
    "Single Objects": _make_single,
    "Attribute Binding": _make_binding,
    "Counting": _make_counting,
    "Spatial Relations": _make_spatial,
    "Locations": _make_locations,
    "Complex Scenes": _make_complex,
}
SHAPES_CATEGORIES: Final = tuple(_MAKERS)
