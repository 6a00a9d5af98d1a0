"""The parser `shapes`: parses captions of the Shapes world by its grammar."""

import re
from collections.abc import Iterator
from typing import Final

from agfsync.language.parsing import Span, Syntax
from agfsync.shapes.scene import BACKGROUNDS
from agfsync.shapes.words import NOUN_PHRASE, NUMBER_OF, PLACE_PHRASE, PLURALS

_NOUNS: Final = {word for both in PLURALS.items() for word in both}
_UNBOUND: Final = {"a", "an", "with", *NUMBER_OF}
"""words of a noun phrase that aren't modifiers"""
_PHRASE: Final = rf"\b(?:an?|{'|'.join(NUMBER_OF)}) {NOUN_PHRASE}"
_GROUND: Final = rf"\ba (?:{'|'.join(BACKGROUNDS)}) background\b"


class ShapesParser:
    """Parses captions of the Shapes world; words that its grammar doesn't know are in no pair or phrase.

    Modifiers are sizes, materials and colours, but not numbers, as with spaCy's labels. Noun phrases are "two small red
    stars", the same with its place, and "a grey background". Nouns are the shapes.

    >>> caption = "two big stars with stripes in the centre on a grey background"
    >>> syntax, words = ShapesParser().parse(caption), caption.split()
    >>> [(words[modifier], words[noun]) for modifier, noun in syntax.pairs]
    [('big', 'stars'), ('stripes', 'stars'), ('grey', 'background')]
    >>> [caption[start:end] for start, end in syntax.phrases]
    ['two big stars with stripes in the centre', 'two big stars with stripes', 'a grey background']
    """

    identity = "shapes-grammar/1"

    def parse(self, prompt: str) -> Syntax:
        """Return the structure of `prompt`."""
        text = prompt.lower()
        words = [match.span() for match in re.finditer(r"\w+", text)]
        said = [text[start:end] for start, end in words]
        pairs, nouns = [], []
        for start, end in (match.span() for match in re.finditer(rf"{_PHRASE}|{_GROUND}", text)):
            inside = [n for n, word in enumerate(words) if start <= word[0] and word[1] <= end]
            heads = [n for n in inside if said[n] in _NOUNS]
            noun = heads[0] if heads else inside[-1]
            nouns += heads[:1]
            pairs += [(n, noun) for n in inside if n != noun and said[n] not in _UNBOUND]
        core = prompt.strip().rstrip(".").strip()
        phrases = [span for span in dict.fromkeys(_find_phrases(text)) if prompt[slice(*span)] != core]
        return Syntax(words, pairs, phrases, nouns)


def _find_phrases(text: str) -> Iterator[Span]:
    """Yield the spans of noun phrases; a phrase with its place comes before the same phrase without it."""
    for match in re.finditer(rf"{_PHRASE}|{_GROUND}", text):
        if place := re.compile(rf" {PLACE_PHRASE}").match(text, match.end()):
            yield match.start(), place.end()
        yield match.span()
