"""The words of the Shapes world, and its noun phrases: "three small striped red stars", both ways."""

import random
import re
from typing import Final

from agfsync.shapes.scene import COLORS, SHAPES, Group

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
RELATION_WORDS: Final = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
PLURALS: Final = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in (*SHAPES, "object")}

_SINGULARS: Final = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in PLURALS}
_SIZE_OF: Final = {word: size for size, words in SIZE_WORDS.items() for word in words}
_MATERIAL_OF: Final = {word: material for material, words in MATERIAL_WORDS.items() for word in words}
_ADJECTIVE: Final = "|".join((*COLORS, *_SIZE_OF, *_MATERIAL_OF))
_NOUN: Final = "|".join(sorted(_SINGULARS, key=len, reverse=True))
_STRIPES: Final = "with stripes"

NOUN_PHRASE: Final = rf"(?:(?:{_ADJECTIVE}),? )*(?:{_NOUN})\b(?: {_STRIPES})?"
"""A regular expression of a noun phrase without its article or number."""
PLACE_PHRASE: Final = r"(?:in|at) the (?:(?:top|upper|bottom|lower) (?:left|right)(?: corner)?|centre|center|middle)"
"""A regular expression of a place in the picture."""


def noun_phrase(
    shape: str | None,
    color: str | None = None,
    size: str | None = None,
    material: str | None = None,
    count: int = 1,
    article: bool = True,
) -> str:
    """The plain noun phrase of a question: "a small striped red star"."""
    noun = shape or "object"
    words = [word for word in (size, material, color, PLURALS[noun] if count > 1 else noun) if word]
    return with_article(" ".join(words)) if article else " ".join(words)


def varied_noun_phrase(group: Group, rng: random.Random) -> str:
    """The noun phrase of a caption, its words and their order varied, with article or number."""
    size = rng.choice(SIZE_WORDS[group.size]) if group.size else None
    material = rng.choice((group.material, _STRIPES)) if group.material == "striped" else group.material
    after = material == _STRIPES
    middle = [word for word in (None if after else material, group.color) if word]
    if len(middle) == 2 and rng.random() < 0.3:
        middle.reverse()
    noun = PLURALS[group.shape] if group.count > 1 else group.shape
    phrase = " ".join([*([size] if size else []), *middle, noun, *([_STRIPES] if after else [])])
    return f"{NUMBERS[group.count]} {phrase}" if group.count > 1 else with_article(phrase)


def parse_noun_phrase(text: str) -> Group:
    """The group that a noun phrase names; "object" leaves the shape open, which a group writes as "object"."""
    words = text.lower().replace(",", " ").split()
    group: dict[str, str] = {}
    count = 1
    for word in words:
        if word in _SINGULARS:
            group["shape"] = _SINGULARS[word]
        elif word in COLORS:
            group["color"] = word
        elif word in _SIZE_OF:
            group["size"] = _SIZE_OF[word]
        elif word in _MATERIAL_OF or word == "stripes":
            group["material"] = _MATERIAL_OF.get(word, "striped")
        elif word in NUMBER_OF:
            count = NUMBER_OF[word]
    return Group(group.pop("shape", "object"), count=count, **group)


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def place_of(phrase: str) -> str:
    """The location that a phrase such as "in the upper left corner" names; empty where it names none."""
    plain = re.sub(r"\bupper\b", "top", re.sub(r"\blower\b", "bottom", phrase.lower()))
    if re.search(r"\b(centre|center|middle)\b", plain):
        return "centre"
    found = re.search(r"\b(top|bottom) (left|right)\b", plain)
    return found.group() if found else ""


def relation_of(phrase: str) -> str:
    """The relation that a phrase names; empty where it names none."""
    meanings = {"left": "left", "right": "right", "above": "above", "over": "above", "below": "below", "under": "below"}
    return next((meanings[word] for word in phrase.lower().split() if word in meanings), "")
