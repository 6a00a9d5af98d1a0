"""Writes captions by the grammar and questions by understanding them, behind a language model's protocols."""

import random
from collections.abc import Collection, Mapping, Sequence

from agfsync.language import QuestionDraft
from agfsync.language.text import normalise_text
from agfsync.records import AnswerWord
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
FOILS = 1 / 3
"""Share of the questions whose right answer is no, so that a judge that likes to say yes gains nothing by it."""


class ShapesWriter:
    """Writes captions and questions of the Shapes world."""

    identity = "shapes-grammar/2"
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
        """Return every atomic question that `caption` answers with yes, and foils: questions that it answers with no.

        Foils make up `FOILS` of all, as far as the caption rules out enough. A grammar is sure of itself, whatever the
        `seed`.
        """
        spec = grammar.read(caption)
        stated = grammar.questions(spec)
        rng = random.Random(f"foils/{caption}")
        denied = grammar.foils(spec, rng)
        wanted = round(len(stated) * FOILS / (1 - FOILS))
        chosen = sorted(rng.sample(range(len(denied)), min(wanted, len(denied))))
        drafts = [_draft(query, query, "yes", caption) for query in stated]
        for place, n in enumerate(chosen):
            # Behind every second one, so that `questions.maximum` keeps the shares.
            drafts.insert(3 * place + 2, _draft(denied[n][1], denied[n][0], "no", caption))
        return drafts


def _draft(query: Query, stated: Query, answer: AnswerWord, caption: str) -> QuestionDraft:
    return QuestionDraft(query.text(), answer, _element(stated, caption), query.element_type, expected=answer)


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
    plain = f" {normalise_text(caption)} "
    return next((words for words in SYNONYMS.get(meant or "", ()) if f" {words} " in plain), meant or "")
