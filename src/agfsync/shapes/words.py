"""The words of the Shapes world, and the writing and parsing of noun phrases ("three small striped red stars")."""

import random
import re
from typing import Final

from agfsync.shapes.scene import COLORS, SHAPES, Group, ThingKind

NUMBERS: Final = {1: "one", 2: "two", 3: "three", 4: "four"}
NUMBER_OF: Final = {word: number for number, word in NUMBERS.items()}
SIZE_WORDS: Final = {"small": ("small", "tiny", "little"), "large": ("large", "big")}
MATERIAL_WORDS: Final = {"solid": ("solid", "plain"), "striped": ("striped",)}
PLACES: Final = {
    "top left": "in the top left corner",
    "top right": "in the top right corner",
    "bottom left": "in the bottom left corner",
    "bottom right": "in the bottom right corner",
    "centre": "in the centre",
}
RELATION_WORDS: Final = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
PLURALS: Final = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in (*SHAPES, "object")}

_MEANINGS: Final = {
    **{word: ("shape", shape) for shape, plural in PLURALS.items() for word in (shape, plural)},
    **{color: ("color", color) for color in COLORS},
    **{word: ("size", size) for size, words in SIZE_WORDS.items() for word in words},
    **{word: ("material", material) for material, words in MATERIAL_WORDS.items() for word in words},
    "stripes": ("material", "striped"),
}
_NOUNS: Final = sorted((word for word, (name, _) in _MEANINGS.items() if name == "shape"), key=len, reverse=True)
_ADJECTIVE: Final = "|".join(word for word in _MEANINGS if word not in (*_NOUNS, "stripes"))
_NOUN: Final = "|".join(_NOUNS)
_STRIPES: Final = "with stripes"

NOUN_PHRASE: Final = rf"(?:(?:{_ADJECTIVE}),? )*(?:{_NOUN})\b(?: {_STRIPES})?"
"""A regular expression for a noun phrase without article or number."""
PLACE_PHRASE: Final = r"(?:in|at) the (?:(?:top|upper|bottom|lower) (?:left|right)(?: corner)?|centre|center|middle)"
"""A regular expression for a place in the image."""


def build_noun_phrase(kind: ThingKind, count: int = 1, article: bool = True) -> str:
    """Return a noun phrase for a question.

    >>> build_noun_phrase(ThingKind("star", "red", "small", "striped"))
    'a small striped red star'
    """
    noun = kind.shape or "object"
    words = [kind.size, kind.material, kind.color, PLURALS[noun] if count > 1 else noun]
    phrase = " ".join(word for word in words if word)
    return add_article(phrase) if article else phrase


def vary_noun_phrase(group: Group, rng: random.Random) -> str:
    """Return a noun phrase for a caption, with article or number, in random words and order."""
    size = rng.choice(SIZE_WORDS[group.size]) if group.size else None
    material = rng.choice((group.material, _STRIPES)) if group.material == "striped" else group.material
    after = material == _STRIPES
    middle = [word for word in (None if after else material, group.color) if word]
    if len(middle) == 2 and rng.random() < 0.3:
        middle.reverse()
    noun = PLURALS[group.shape] if group.count > 1 else group.shape
    phrase = " ".join([*([size] if size else []), *middle, noun, *([_STRIPES] if after else [])])
    return f"{NUMBERS[group.count]} {phrase}" if group.count > 1 else add_article(phrase)


def parse_noun_phrase(text: str) -> Group:
    """Return the group that a noun phrase names; its shape is "object" if the phrase has none."""
    words = text.lower().replace(",", " ").split()
    said = {"shape": "object", **dict(_MEANINGS[word] for word in words if word in _MEANINGS)}
    count = next((NUMBER_OF[word] for word in words if word in NUMBER_OF), 1)
    return Group(said["shape"], said.get("color"), said.get("size"), said.get("material"), count)


def add_article(phrase: str) -> str:
    """Return the phrase with the article "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def parse_place(phrase: str) -> str:
    """Return the location that a phrase such as "in the upper left corner" names, or "" if it names none."""
    plain = re.sub(r"\bupper\b", "top", re.sub(r"\blower\b", "bottom", phrase.lower()))
    if re.search(r"\b(centre|center|middle)\b", plain):
        return "centre"
    found = re.search(r"\b(top|bottom) (left|right)\b", plain)
    return found.group() if found else ""


def parse_relation(phrase: str) -> str:
    """Return the relation that a phrase names, or "" if it names none."""
    meanings = {"left": "left", "right": "right", "above": "above", "over": "above", "below": "below", "under": "below"}
    return next((meanings[word] for word in phrase.lower().split() if word in meanings), "")
