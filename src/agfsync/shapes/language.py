"""Writes captions by the grammar and questions by understanding them, behind a language model's protocols."""

import random
from collections.abc import Collection, Mapping, Sequence

from agfsync.language import QuestionDraft
from agfsync.language.text import normalised
from agfsync.shapes import grammar
from agfsync.shapes.queries import Query
from agfsync.shapes.words import MATERIAL_WORDS, NUMBERS, SIZE_WORDS

SYNONYMS: Mapping[str, Sequence[str]] = {
    **SIZE_WORDS,
    **MATERIAL_WORDS,
    "striped": (*MATERIAL_WORDS["striped"], "stripes"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "centre": ("centre", "center", "middle"),
    "bottom left": ("bottom left", "lower left"),
    "bottom right": ("bottom right", "lower right"),
    "top left": ("top left", "upper left"),
    "top right": ("top right", "upper right"),
}
"""The ways in which a caption may word what the grammar has one word for."""


class ShapesWriter:
    """Writes captions and questions of the Shapes world."""

    identity = "shapes-grammar/1"
    concurrency = 1
    categories: Sequence[str] = grammar.CATEGORIES

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> list[str]:
        """`count` captions of `category`, fewer only where nearly all that there are stand in `avoid` already."""
        rng = random.Random(seed)
        written: dict[str, None] = {}
        for _ in range(20 * count):
            if len(written) == count:
                break
            caption = grammar.write(grammar.invent(category, rng), rng)
            if caption not in avoid:
                written[caption] = None
        return list(written)

    def questions(self, caption: str, seed: int) -> list[QuestionDraft]:
        """Every atomic question that `caption` answers with yes; a grammar is sure of itself, whatever the `seed`."""
        return [_draft(query, caption) for query in grammar.questions(grammar.read(caption))]


def _draft(query: Query, caption: str) -> QuestionDraft:
    return QuestionDraft(query.text(), "yes", _element(query, caption), query.element_type)


def _element(query: Query, caption: str) -> str:
    """What of the caption the question is on, in the caption's own words: "big" where it asks whether it is large."""
    kind = query.kind
    meant = {
        "object": kind.shape,
        "shape": kind.shape,
        "color": kind.color,
        "attribute": kind.size,
        "material": kind.material,
        "counting": NUMBERS[query.count],
        "location": query.location,
        "spatial": query.relation,
        "other": query.background,
    }[query.element_type]
    plain = f" {normalised(caption)} "
    return next((words for words in SYNONYMS.get(meant or "", ()) if f" {words} " in plain), meant or "")
