"""The Shapes world's writer of captions and questions, with the protocols of a language model."""

import random
from collections.abc import Collection, Mapping, Sequence

from agfsync.language import QuestionDraft
from agfsync.language.text import normalise_text
from agfsync.records import AnswerWord
from agfsync.shapes.grammar import (
    SHAPES_CATEGORIES,
    invent_spec,
    list_foils,
    list_questions,
    parse_caption,
    write_caption,
)
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
"""Words of the grammar -> their wordings in captions."""
FOIL_SHARE = 1 / 3
"""Share of the questions with the right answer no, so that a judge gains nothing by a bias to yes."""


class ShapesWriter:
    """Writes captions and questions of the Shapes world.

    >>> writer = ShapesWriter()
    >>> (caption,) = writer.captions("Counting", 1, (), seed=0)
    >>> [(draft.text, draft.answer) for draft in writer.questions("two red stars", seed=0)][:3]
    [('Is there a star?', 'yes'), ('Is the star red?', 'yes'), ('Is the star pink?', 'no')]
    """

    identity = "shapes-grammar/2"
    concurrency = 1
    categories: Sequence[str] = SHAPES_CATEGORIES

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> list[str]:
        """Return `count` different captions of `category`; fewer if `avoid` has nearly all possible ones."""
        rng = random.Random(seed)
        written: dict[str, None] = {}
        for _ in range(20 * count):
            if len(written) == count:
                break
            caption = write_caption(invent_spec(category, rng), rng)
            if caption not in avoid:
                written[caption] = None
        return list(written)

    def questions(self, caption: str, seed: int) -> list[QuestionDraft]:
        """Return all atomic questions that `caption` answers with yes, and foils: questions that it answers with no.

        Foils make up `FOIL_SHARE` of all questions, or less if the caption has too few. `seed` isn't used.
        """
        spec = parse_caption(caption)
        stated = list_questions(spec)
        rng = random.Random(f"foils/{caption}")
        foils = list_foils(spec, rng)
        wanted = round(len(stated) * FOIL_SHARE / (1 - FOIL_SHARE))
        chosen = sorted(rng.sample(range(len(foils)), min(wanted, len(foils))))
        drafts = [_draft_question(query, query, "yes", caption) for query in stated]
        for place, n in enumerate(chosen):
            # A foil follows every two others, so that a cut at `questions.maximum` keeps the shares.
            drafts.insert(3 * place + 2, _draft_question(foils[n][1], foils[n][0], "no", caption))
        return drafts


def _draft_question(query: Query, stated: Query, answer: AnswerWord, caption: str) -> QuestionDraft:
    element = _find_element(stated, caption)
    return QuestionDraft(query.to_text(), answer, element, query.element_type, expected=answer)


def _find_element(query: Query, caption: str) -> str:
    """Return the question's subject in the caption's own words: "big" if it asks whether a thing is large."""
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
