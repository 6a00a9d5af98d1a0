"""The structure of a prompt, for methods of attribute binding: modifiers and their nouns, noun phrases, nouns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Span = tuple[int, int]
"""A part of a prompt: the start (inclusive) and end (exclusive) positions of its characters."""
WordPair = tuple[int, int]
"""A modifier and the noun that it modifies, as positions in `Syntax.words`."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """The structure of a prompt.

    >>> syntax = Syntax(((0, 3), (4, 7)), pairs=((0, 1),), nouns=(1,))  # of "red car"
    >>> syntax.groups
    [((0, 1),)]
    """

    words: Sequence[Span]
    """in the prompt's order, without overlap; punctuation may count as words"""
    pairs: Sequence[WordPair] = ()
    phrases: Sequence[Span] = ()
    """noun phrases of several words, nested ones too, outer before inner; never the whole prompt"""
    nouns: Sequence[int] = ()
    """positions in `words`, without nouns that modify another noun ("traffic" in "traffic light")"""

    @property
    def groups(self) -> list[tuple[WordPair, ...]]:
        """The pairs in groups: pairs that share a word are in one group. Groups have the order of their first pairs."""
        groups: list[list[WordPair]] = []
        for pair in dict.fromkeys(self.pairs):
            touched = [group for group in groups if any(set(pair) & set(other) for other in group)]
            joined = [*(each for group in touched for each in group), pair]
            at = groups.index(touched[0]) if touched else len(groups)
            groups = [group for group in groups if group not in touched]
            groups.insert(at, joined)
        return [tuple(group) for group in groups]


class Parser(Protocol):
    """A parser of the catalog kind "parsers"; its parameters are its settings.

    A class may have a static method `check(**settings)`, which raises a RecipeError if a requirement isn't installed.
    It is called before a run begins, and must not load anything.
    """

    identity: str
    """The digest or name of everything that affects its results."""

    def parse(self, prompt: str) -> Syntax:
        """Return the structure of `prompt`. It depends on the prompt only, not on prompts parsed before."""
        ...
