"""When two questions on a caption ask the same in other words.

The authors' code drops questions whose embeddings have a cosine of 0.8 or more. Here the words that say something are
compared, and for the few of one caption exactly: MinHash would save nothing, and to an embedding "red" and "blue" are
nearly the same.
"""

import re
from dataclasses import dataclass

from agfsync.language import QuestionDraft
from agfsync.language.text import normalised

FRAME = frozenset(
    normalised(
        "a an any are be been being can contain contains contained could depict depicts depicted describe described do"
        " does feature features featured has have having image include includes included is mention mentioned mentions"
        " of photo photograph picture present scene see seen show showing shown shows some that the there these this"
        " those visible was were which you"
    ).split()
)
"""words that put a question, and say nothing of what is asked"""
HERE = re.compile(
    r"\b(?:in|within|by) (?:the|this) (?:image|photo|photograph|picture|scene|caption|description|text)\b"
)
"""said of anything that is asked about"""
OTHER_FACTS = frozenset({"no", "not", "without", "never", "only"})
"""words that change what is asked however alike the rest is"""
FREE_ORDER = 2
"""telling words up to which their order doesn't matter: a red fox, the fox is red"""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """A question's words that say what is asked, in order, and those of its element."""

    words: tuple[str, ...]
    element: frozenset[str]


class KeptQuestions:
    """The questions on one caption that are kept, by which others that ask nearly the same are known.

    Args:
        similarity: of the sets of telling words (Jaccard, 0..1) from which on two questions are nearly the same. At 1
            none are.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._kept: dict[tuple[str, str], list[_Meaning]] = {}

    def is_near(self, draft: QuestionDraft) -> bool:
        """Return True if a kept question of the same element type and answer asks nearly the same.

        Never where each has a word that the other lacks: "Is the ball red?" and "Is the ball blue?" ask two things.
        """
        if self._similarity == 1:
            return False
        meaning = _meaning(draft)
        return any(self._are_near(meaning, other) for other in self._kept.get(_topic(draft), ()))

    def add(self, draft: QuestionDraft) -> None:
        """Let later questions differ from `draft`."""
        self._kept.setdefault(_topic(draft), []).append(_meaning(draft))

    def _are_near(self, one: _Meaning, other: _Meaning) -> bool:
        if one.words == other.words:
            return True
        short, long = sorted((one.words, other.words), key=len)
        more, all_ = set(long) - set(short), set(long) | set(short)
        if one.element != other.element or not set(short) <= set(long) or more & OTHER_FACTS:
            return False
        return len(set(short)) >= self._similarity * len(all_) and _is_in_order(short, long)


def telling_words(text: str) -> tuple[str, ...]:
    """Return the words of a question that say what is asked, in order, without their plural's s."""
    plain = normalised(text)
    words = HERE.sub(" ", plain).split()
    return tuple(_singular(word) for word in words if word not in FRAME) or tuple(plain.split())


def _is_in_order(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    """Return True if `short` is what remains of `long` when words are left out, or is too short to be sure."""
    rest = iter(long)
    return len(long) <= FREE_ORDER or all(word in rest for word in short)


def _singular(word: str) -> str:
    if word.endswith(("xes", "ches", "shes", "zes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _meaning(draft: QuestionDraft) -> _Meaning:
    return _Meaning(telling_words(draft.text), frozenset(telling_words(draft.element)))


def _topic(draft: QuestionDraft) -> tuple[str, str]:
    """Return what two questions must have in common to be alike at all."""
    return normalised(draft.element_type), normalised(draft.answer)
