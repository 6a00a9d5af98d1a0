"""Checks of a writer's captions and questions, shared by several stages."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from agfsync.language import QuestionDraft
from agfsync.language.duplicates import KeptQuestions
from agfsync.language.text import count_words, has_words, normalise_text
from agfsync.records import Caption, ElementType, Question, make_question_key, one_line

TYPES = get_args(ElementType)
FILLERS = frozenset(
    normalise_text("a, an, and, are, at, by, for, from, in, is, it, its, of, on, or, the, to, with").split()
)
"""words of nearly every caption, which don't show that an element is mentioned in it"""
MOST_CAPTION_CHARACTERS, MOST_QUESTION_CHARACTERS = 1000, 300
"""characters: a model that writes more is rambling. Prompts ask for captions of 50 words; encoders cut at 77 tokens"""


def sift_captions(texts: Sequence[str], words: tuple[int, int] | None = None) -> tuple[list[str], Counter[str]]:
    """Return the valid captions among a model's `texts`, and the counted reasons why the others aren't.

    `words` are the fewest and the most words of a caption; None: any number.
    """
    reasons = [find_caption_fault(text, words) for text in texts]
    kept = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
    return kept, Counter(reason for reason in reasons if reason is not None)


def find_caption_fault(text: str, words: tuple[int, int] | None) -> str | None:
    """Return the reason why `text` isn't a valid caption, or None."""
    if not has_words(text):
        return "empty"
    if len(text) > MOST_CAPTION_CHARACTERS:
        return "too long"
    if words is None or words[0] <= (count := count_words(text)) <= words[1]:
        return None
    return f"fewer than {words[0]} words" if count < words[0] else f"more than {words[1]} words"


def sift_questions(
    caption: Caption, drafts: Sequence[QuestionDraft], similarity: float = 1.0
) -> tuple[list[Question], Counter[str]]:
    """Return the distinct valid questions on `caption` among `drafts`, and the counted reasons why the others aren't.

    Two questions are near duplicates from `similarity` on; at 1, only questions of the same words.
    """
    kept: dict[str, Question] = {}
    near = KeptQuestions(similarity)
    dropped: Counter[str] = Counter()
    for draft in map(_clean_draft, drafts):
        plain = normalise_text(draft.text)
        reason = "repeated" if plain in kept else find_question_fault(draft, caption)
        if reason is None and near.is_near(draft):
            reason = "nearly repeated"
        if reason is None:
            kind: Any = normalise_text(draft.element_type)
            key = make_question_key(caption.key, draft.text, draft.expected)
            kept[plain] = Question(key, caption.key, draft.text, draft.expected, draft.element, kind)
            near.add(draft)
        else:
            dropped[reason] += 1
    return list(kept.values()), dropped


def _clean_draft(draft: QuestionDraft) -> QuestionDraft:
    """Return `draft` in the form that is kept, in which control characters make no difference."""
    texts: dict[str, Any] = {
        name: one_line(getattr(draft, name)) for name in ("text", "answer", "element", "element_type")
    }
    return replace(draft, **texts)


def find_question_fault(draft: QuestionDraft, caption: Caption) -> str | None:
    """Return the reason why `draft` isn't a valid question on `caption`, or None."""
    if not draft.valid:
        return "called invalid by its writer"
    if not has_words(draft.text):
        return "empty"
    if max(len(draft.text), len(draft.element)) > MOST_QUESTION_CHARACTERS:
        return "too long"
    if normalise_text(draft.answer) != draft.expected:
        return f"answer isn't {draft.expected}"
    if normalise_text(draft.element_type) not in TYPES:
        return "unknown element type"
    if not _is_mentioned(caption.text, draft.element):
        return "element isn't in the caption"
    return None


def _is_mentioned(caption: str, element: str) -> bool:
    """Return True if a content word of `element` is in `caption`.

    One is enough, even as a part of a word: a writer may inflect words ("cats" -> "cat") or add some.
    """
    words = normalise_text(element).split()
    content_words = [word for word in words if word not in FILLERS]
    return any(word in normalise_text(caption) for word in content_words or words)
