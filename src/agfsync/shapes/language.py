"""Writes captions by the grammar and questions by understanding them, behind a language model's protocols."""

import random
from collections.abc import Collection, Sequence

from agfsync.language import QuestionDraft
from agfsync.shapes import grammar
from agfsync.shapes.queries import Query


class ShapesWriter:
    """Writes captions and questions of the Shapes world."""

    identity = "shapes-grammar/1"
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
        return [_draft(query) for query in grammar.questions(grammar.read(caption))]


def _draft(query: Query) -> QuestionDraft:
    return QuestionDraft(query.text(), "yes", _element(query), query.element_type)


def _element(query: Query) -> str:
    """The word of the caption that the question is on."""
    kind = query.kind
    elements = {
        "object": kind.shape,
        "shape": kind.shape,
        "color": kind.color,
        "attribute": kind.size,
        "material": kind.material,
        "counting": str(query.count),
        "location": query.location,
        "spatial": query.relation,
        "other": query.background,
    }
    return elements[query.element_type] or ""
