"""Detects near-duplicates among captions and among questions."""

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from agfsync.language import QuestionDraft
from agfsync.language.text import normalise_text

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

_SHINGLE = 5
"""Length of an n-gram in characters: another ending or preposition changes few n-grams."""
_PERMUTATIONS = 128
"""Size of a MinHash: the standard error of its estimate is at most 0.045."""

_EMPTY_WORDS = frozenset(
    normalise_text(
        "a an any are be been being can contain contains contained could depict depicts depicted describe described do"
        " does feature features featured has have having image include includes included is mention mentioned mentions"
        " of photo photograph picture present scene see seen show showing shown shows some that the there these this"
        " those visible was were which you"
    ).split()
)
"""Words that phrase a question, and don't affect what it asks."""
_EMPTY_PHRASE = re.compile(
    r"\b(?:in|within|by) (?:the|this) (?:image|photo|photograph|picture|scene|caption|description|text)\b"
)
_REVERSING_WORDS = frozenset({"no", "not", "without", "never", "only"})
"""Words that change the meaning of a question, however similar the other words are."""
_FREE_ORDER = 2
"""Largest number of telling words in any order: "a red fox" and "the fox is red" are the same."""


class KeptCaptions:
    """An index of captions, by MinHash of their character n-grams.

    Args:
        similarity: smallest Jaccard index of the sets of n-grams, in 0..1, of near captions. With 1 only equal captions
            would be near, and those the caller detects itself.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._sketches: dict[str, MinHash] = {}
        self._index: MinHashLSH | None = _make_index(similarity) if similarity < 1 else None

    def is_near(self, text: str) -> bool:
        """Return True if `text` is near to an added caption."""
        if self._index is None:
            return False
        sketch = _sketch(text)
        # The index finds candidates, and the sketches decide.
        return any(self._sketches[key].jaccard(sketch) >= self._similarity for key in self._index.query(sketch))

    def add(self, text: str) -> None:
        """Add a caption."""
        plain = normalise_text(text)
        if self._index is not None and plain not in self._sketches:
            self._sketches[plain] = _sketch(text)
            self._index.insert(plain, self._sketches[plain])


def _make_index(similarity: float) -> "MinHashLSH":
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS, params=_choose_bands(similarity))


@cache
def _choose_bands(similarity: float) -> tuple[int, int]:
    """Return the optimal bands and rows of an index; cached, since the search takes longer than everything else."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS)
    return index.b, index.r


def _sketch(text: str) -> "MinHash":
    from datasketch import MinHash

    plain = normalise_text(text)
    sketch = MinHash(num_perm=_PERMUTATIONS)
    count = max(1, len(plain) - _SHINGLE + 1)
    sketch.update_batch([plain[start : start + _SHINGLE].encode(errors="surrogatepass") for start in range(count)])
    return sketch


@dataclass(frozen=True, slots=True)
class _Meaning:
    """The telling words of a question, in order, and those of its element, as a set."""

    words: tuple[str, ...]
    element: frozenset[str]


class KeptQuestions:
    """The questions on one caption, by their telling words.

    The authors' code drops questions with a cosine similarity of embeddings of 0.8 or more; but the embeddings of "red"
    and "blue" are nearly the same. Words are compared exactly: for the few questions of a caption MinHash saves no
    time.

    Args:
        similarity: smallest Jaccard index of the sets of telling words, in 0..1, of near questions. With 1 no questions
            are near.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._kept: dict[tuple[str, str], list[_Meaning]] = {}

    def is_near(self, draft: QuestionDraft) -> bool:
        """Return True if an added question of the same element type and answer asks nearly the same.

        Two questions are never near if each has a word that the other lacks: "Is the ball red?", "Is the ball blue?".
        """
        if self._similarity == 1:
            return False
        meaning = _read_meaning(draft)
        return any(self._are_near(meaning, other) for other in self._kept.get(_topic(draft), ()))

    def add(self, draft: QuestionDraft) -> None:
        """Add a question."""
        self._kept.setdefault(_topic(draft), []).append(_read_meaning(draft))

    def _are_near(self, one: _Meaning, other: _Meaning) -> bool:
        if one.words == other.words:
            return True
        short, long = sorted((one.words, other.words), key=len)
        more, all_ = set(long) - set(short), set(long) | set(short)
        if one.element != other.element or not set(short) <= set(long) or more & _REVERSING_WORDS:
            return False
        return len(set(short)) >= self._similarity * len(all_) and _is_in_order(short, long)


def telling_words(text: str) -> tuple[str, ...]:
    """Return the words of a question that determine what it asks, in order, in the singular.

    >>> telling_words("Does the picture show two foxes?")
    ('two', 'fox')
    """
    plain = normalise_text(text)
    words = _EMPTY_PHRASE.sub(" ", plain).split()
    return tuple(_singular(word) for word in words if word not in _EMPTY_WORDS) or tuple(plain.split())


def _is_in_order(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    """Return True if `short` is a subsequence of `long`, or if `long` has at most `_FREE_ORDER` words."""
    rest = iter(long)
    return len(long) <= _FREE_ORDER or all(word in rest for word in short)


def _singular(word: str) -> str:
    if word.endswith(("xes", "ches", "shes", "zes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _read_meaning(draft: QuestionDraft) -> _Meaning:
    return _Meaning(telling_words(draft.text), frozenset(telling_words(draft.element)))


def _topic(draft: QuestionDraft) -> tuple[str, str]:
    return normalise_text(draft.element_type), normalise_text(draft.answer)
