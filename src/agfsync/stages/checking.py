"""Which of a writer's questions stand up to checking. No stage of its own."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

from agfsync.language import QuestionDraft
from agfsync.language.text import normalised
from agfsync.records import Caption, ElementType, Question, digest, one_line

TYPES = get_args(ElementType)
FILLERS = frozenset(
    normalised("a, an, and, are, at, by, for, from, in, is, it, its, of, on, or, the, to, with").split()
)
"""words that nearly every caption has, so that they place no element in it"""


LONGEST_CAPTION, LONGEST_QUESTION = 1000, 300
"""characters: a model that writes more has lost itself. Captions are asked for in 50 words, and cut at 77 tokens"""


def sift_captions(texts: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Those of a model's `texts` that may be captions, and why the others aren't, counted."""
    kept = [text for text in texts if len(text) <= LONGEST_CAPTION]
    return kept, +Counter({"too long": len(texts) - len(kept)})


def sift(caption: Caption, drafts: Sequence[QuestionDraft]) -> tuple[list[Question], Counter[str]]:
    """Those of `drafts` that are valid questions on `caption`, each once, and why the others aren't, counted."""
    kept: dict[str, Question] = {}
    dropped: Counter[str] = Counter()
    for draft in drafts:
        plain = normalised(draft.text)
        reason = "repeated" if plain in kept else fault(draft, caption)
        if reason is None:
            kept[plain] = _question(caption, draft)
        else:
            dropped[reason] += 1
    return list(kept.values()), dropped


def fault(draft: QuestionDraft, caption: Caption) -> str | None:
    """Why `draft` is no valid question on `caption`, or None when it is one."""
    if not draft.valid:
        return "called invalid by its writer"
    if not normalised(draft.text):
        return "empty"
    if max(len(draft.text), len(draft.element)) > LONGEST_QUESTION:
        return "too long"
    if normalised(draft.answer) != draft.expected:
        return f"answer isn't {draft.expected}"
    if normalised(draft.element_type) not in TYPES:
        return "unknown element type"
    if not _mentions(caption.text, draft.element):
        return "element isn't in the caption"
    return None


def _mentions(caption: str, element: str) -> bool:
    """Whether some word of `element` that says something is in `caption`.

    Some, not all, and at any place of a word: a writer may bend words ("cats" -> "cat") or add one.
    """
    words = normalised(element).split()
    telling = [word for word in words if word not in FILLERS]
    return any(word in normalised(caption) for word in telling or words)


def _question(caption: Caption, draft: QuestionDraft) -> Question:
    text = one_line(draft.text)
    kind: Any = normalised(draft.element_type)
    key = digest("question", caption.key, text)
    return Question(key, caption.key, text, draft.expected, one_line(draft.element), kind)
