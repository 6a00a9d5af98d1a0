"""Questions of the Shapes world as logic: what a question asks, its words, and its answer in a scene.

A `Query` is asked of things seen, never of the caption, so the same code answers for a drawn scene (to teach the VQA
model) and for what the oracle saw in a picture.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from agfsync.records import ElementType
from agfsync.shapes.scene import BACKGROUNDS, COLORS, MATERIALS, SHAPES, SIZES, Scene, Thing, located, related
from agfsync.shapes.words import (
    NOUN_PHRASE,
    NUMBER_OF,
    NUMBERS,
    PLACE_PHRASE,
    PLACES,
    RELATION_WORDS,
    noun_phrase,
    parse_noun_phrase,
    place_of,
    relation_of,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """Which things are meant; what is None may be anything."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    material: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether `thing` is of this kind."""
        wanted = ((self.shape, thing.shape), (self.color, thing.color), (self.size, thing.size))
        return all(want in (None, has) for want, has in (*wanted, (self.material, thing.material)))


@dataclass(frozen=True, slots=True)
class Query:
    """A yes/no question. Which fields are set follows from its element type.

    object: is there a `kind`; color, attribute (size), material, shape: is there a `kind`, asked of that property;
    counting: are there exactly `count` of `kind`; location: is one of `kind` at `location`; spatial: is one of `kind`
    at `relation` of one of `other`; other: is the background `background`.
    """

    element_type: ElementType
    kind: Kind = Kind()
    count: int = 1
    location: str = ""
    relation: str = ""
    other: Kind = Kind()
    background: str = ""

    def answer(self, scene: Scene) -> bool:
        """The answer in `scene`."""
        fitting = [thing for thing in scene.things if self.kind.fits(thing)]
        match self.element_type:
            case "other":
                return scene.background == self.background
            case "counting":
                return len(fitting) == self.count
            case "location":
                return any(located(thing, self.location) for thing in fitting)
            case "spatial":
                others = [thing for thing in scene.things if self.other.fits(thing)]
                return any(related(a, b, self.relation) for a in fitting for b in others if a is not b)
            case _:
                return bool(fitting)

    def clear(self, scene: Scene, by: float = 3.0) -> bool:
        """Return True if the answer stays when every place moves by `by` pixels: no borderline case."""
        fitting = [thing for thing in scene.things if self.kind.fits(thing)]
        if self.element_type == "location":
            return all(located(t, self.location, -by) == located(t, self.location, by) for t in fitting)
        if self.element_type == "spatial":
            others = [thing for thing in scene.things if self.other.fits(thing)]
            pairs = [(a, b) for a in fitting for b in others if a is not b]
            return all(related(a, b, self.relation, 5 + by) == related(a, b, self.relation, 5 - by) for a, b in pairs)
        return True

    def text(self) -> str:
        """The question in words."""
        kind = self.kind
        match self.element_type:
            case "object":
                return f"Is there {noun_phrase(kind.shape, kind.color, kind.size, kind.material)}?"
            case "color":
                return f"Is the {noun_phrase(kind.shape, article=False)} {kind.color}?"
            case "attribute":
                return f"Is the {noun_phrase(kind.shape, kind.color, article=False)} {kind.size}?"
            case "material":
                return f"Is the {noun_phrase(kind.shape, kind.color, article=False)} {kind.material}?"
            case "shape":
                return f"Is the {kind.color} object a {kind.shape}?"
            case "counting":
                phrase = noun_phrase(kind.shape, kind.color, kind.size, kind.material, count=self.count, article=False)
                verb = "Is" if self.count == 1 else "Are"
                return f"{verb} there exactly {NUMBERS[self.count]} {phrase}?"
            case "location":
                return f"Is the {noun_phrase(kind.shape, kind.color, article=False)} {PLACES[self.location]}?"
            case "spatial":
                one = noun_phrase(kind.shape, kind.color, article=False)
                two = noun_phrase(self.other.shape, self.other.color, article=False)
                return f"Is the {one} {RELATION_WORDS[self.relation]} the {two}?"
            case _:
                return f"Is the background {self.background}?"


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
    """The query that `text` puts in words, or None if it isn't a question of this world."""
    for element_type, form in _FORMS:
        found = re.fullmatch(form, text.strip())
        if found:
            return _query(element_type, found.groupdict())
    return None


def _query(element_type: ElementType, parts: dict[str, str]) -> Query:
    kind = _kind(parts["phrase"]) if "phrase" in parts else Kind()
    own = {name: parts[name] for name in ("shape", "color", "size", "material") if name in parts}
    return Query(
        element_type,
        replace(kind, **own),
        count=NUMBER_OF[parts["number"]] if "number" in parts else 1,
        location=place_of(parts["place"]) if "place" in parts else "",
        relation=relation_of(parts["relation"]) if "relation" in parts else "",
        other=_kind(parts["other"]) if "other" in parts else Kind(),
        background=parts.get("background", ""),
    )


def _kind(phrase: str) -> Kind:
    group = parse_noun_phrase(phrase)
    return Kind(None if group.shape == "object" else group.shape, group.color, group.size, group.material)
