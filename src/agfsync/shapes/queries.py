"""Questions of the Shapes world as logical queries: their text, and their answer in a scene.

A `Query` is answered by a scene, never by a caption. So the same code answers for a drawn scene (to train the VQA
model) and for the scene that the oracle sees in an image.

>>> query = parse_query("Is the red star to the left of the blue heart?")
>>> query.kind, query.relation, query.other.shape
(ThingKind(shape='star', color='red', size=None, material=None), 'left', 'heart')
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agfsync.records import ElementType
from agfsync.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    LOCATIONS,
    MATERIALS,
    MAX_THINGS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    ThingKind,
    is_at,
    is_related,
)
from agfsync.shapes.words import (
    NOUN_PHRASE,
    NUMBER_OF,
    NUMBERS,
    PLACE_PHRASE,
    PLACES,
    RELATION_WORDS,
    build_noun_phrase,
    parse_noun_phrase,
    parse_place,
    parse_relation,
)

_ANY: Final = ThingKind()


@dataclass(frozen=True, slots=True)
class Query:
    """A yes/no question. Its element type decides which fields are set.

    object: is there a `kind`; color, attribute (size), material, shape: is there a `kind`, worded as a question on that
    property; counting: are there exactly `count` of `kind`; location: is one of `kind` at `location`; spatial: is one
    of `kind` in the `relation` to one of `other`; other: is the background `background`.

    >>> Query("counting", ThingKind("star", "red"), count=2).to_text()
    'Are there exactly two red stars?'
    """

    element_type: ElementType
    kind: ThingKind = _ANY
    count: int = 1
    location: str = ""
    relation: str = ""
    other: ThingKind = _ANY
    background: str = ""

    def answer(self, scene: Scene) -> bool:
        """Return True if the answer in `scene` is yes."""
        fitting = self._fitting(scene)
        match self.element_type:
            case "other":
                return scene.background == self.background
            case "counting":
                return len(fitting) == self.count
            case "location":
                return any(is_at(thing, self.location) for thing in fitting)
            case "spatial":
                return any(is_related(a, b, self.relation) for a, b in self._pairs(scene))
            case _:
                return bool(fitting)

    def is_clear(self, scene: Scene, by: float = 3.0) -> bool:
        """Return True if the answer stays the same when the borders of places and relations move by `by` pixels."""
        if self.element_type == "location":
            fitting = self._fitting(scene)
            return all(is_at(t, self.location, -by) == is_at(t, self.location, by) for t in fitting)
        if self.element_type == "spatial":
            relation, pairs = self.relation, self._pairs(scene)
            return all(is_related(a, b, relation, 5 + by) == is_related(a, b, relation, 5 - by) for a, b in pairs)
        return True

    def oppose(self) -> "Query":
        """Return the query on another value of the same attribute.

        Left and right, above and below, and the two sizes and materials are exchanged; a colour, a shape, a place, a
        number or a background becomes the next one. So if the answer to this query is yes, that to the other is mostly
        no.

        >>> parse_query("Is the red star small?").oppose().to_text()
        'Is the red star large?'
        """
        kind = self.kind
        match self.element_type:
            case "counting":
                return replace(self, count=self.count % MAX_THINGS + 1)
            case "location":
                return replace(self, location=_find_next(LOCATIONS, self.location))
            case "spatial":
                return replace(self, relation=_EXCHANGED[self.relation])
            case "other":
                return replace(self, background=_find_next(BACKGROUNDS, self.background))
            case "color":
                return replace(self, kind=replace(kind, color=_find_next(COLORS, kind.color)))
            case "attribute":
                return replace(self, kind=replace(kind, size=_find_next(SIZES, kind.size)))
            case "material":
                return replace(self, kind=replace(kind, material=_find_next(MATERIALS, kind.material)))
            case _:
                return replace(self, kind=replace(kind, shape=_find_next(SHAPES, kind.shape)))

    def to_text(self) -> str:
        """Return the question in words."""
        kind = self.kind
        named = build_noun_phrase(ThingKind(kind.shape, kind.color), article=False)
        match self.element_type:
            case "object":
                return f"Is there {build_noun_phrase(kind)}?"
            case "color":
                return f"Is the {build_noun_phrase(ThingKind(kind.shape), article=False)} {kind.color}?"
            case "attribute":
                return f"Is the {named} {kind.size}?"
            case "material":
                return f"Is the {named} {kind.material}?"
            case "shape":
                return f"Is the {kind.color} object a {kind.shape}?"
            case "counting":
                phrase = build_noun_phrase(kind, self.count, article=False)
                return f"{'Is' if self.count == 1 else 'Are'} there exactly {NUMBERS[self.count]} {phrase}?"
            case "location":
                return f"Is the {named} {PLACES[self.location]}?"
            case "spatial":
                other = build_noun_phrase(ThingKind(self.other.shape, self.other.color), article=False)
                return f"Is the {named} {RELATION_WORDS[self.relation]} the {other}?"
            case _:
                return f"Is the background {self.background}?"

    def _fitting(self, scene: Scene) -> list[Thing]:
        return [thing for thing in scene.things if self.kind.fits(thing)]

    def _pairs(self, scene: Scene) -> list[tuple[Thing, Thing]]:
        others = [thing for thing in scene.things if self.other.fits(thing)]
        return [(a, b) for a in self._fitting(scene) for b in others if a is not b]


_EXCHANGED: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _find_next(values: Sequence[str], value: str | None) -> Any:
    """Return the value after `value`, the first one after the last; None for None, which means any value."""
    return None if value is None else values[(values.index(value) + 1) % len(values)]


def _one_of(name: str, words: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(words)})"


_THE: Final = rf"Is the (?P<phrase>{NOUN_PHRASE})"
_COLOR, _SHAPE = _one_of("color", COLORS), _one_of("shape", SHAPES)
_FORMS: Final[tuple[tuple[ElementType, str], ...]] = (
    ("other", rf"Is the background {_one_of('background', BACKGROUNDS)}\?"),
    ("shape", rf"Is the {_COLOR} object an? {_SHAPE}\?"),
    ("object", rf"Is there (?P<phrase>an? {NOUN_PHRASE})\?"),
    ("counting", rf"(?:Is|Are) there exactly {_one_of('number', NUMBER_OF)} (?P<phrase>{NOUN_PHRASE})\?"),
    ("spatial", rf"{_THE} {_one_of('relation', RELATION_WORDS.values())} the (?P<other>{NOUN_PHRASE})\?"),
    ("location", rf"{_THE} (?P<place>{PLACE_PHRASE})\?"),
    ("attribute", rf"{_THE} {_one_of('size', SIZES)}\?"),
    ("material", rf"{_THE} {_one_of('material', MATERIALS)}\?"),
    ("color", rf"{_THE} {_COLOR}\?"),
)


def parse_query(text: str) -> Query | None:
    """Parse a question, or return None if it isn't a question of this world."""
    for element_type, form in _FORMS:
        found = re.fullmatch(form, text.strip())
        if found:
            return _build_query(element_type, found.groupdict())
    return None


def _build_query(element_type: ElementType, parts: dict[str, str]) -> Query:
    own = {name: parts[name] for name in ("shape", "color", "size", "material") if name in parts}
    return Query(
        element_type,
        replace(_parse_kind(parts.get("phrase", "")), **own),
        count=NUMBER_OF[parts.get("number", "one")],
        location=parse_place(parts.get("place", "")),
        relation=parse_relation(parts.get("relation", "")),
        other=_parse_kind(parts.get("other", "")),
        background=parts.get("background", ""),
    )


def _parse_kind(phrase: str) -> ThingKind:
    group = parse_noun_phrase(phrase)
    return ThingKind(None if group.shape == "object" else group.shape, group.color, group.size, group.material)
