"""When two texts are the same, in any script."""

import re
import unicodedata

SIGNS = frozenset("#%&@/\\\N{PER MILLE SIGN}\N{PER TEN THOUSAND SIGN}")
"""Punctuation to Unicode, but a part of what is said: C#, 50%, R&D, 1/2."""
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Han."""
NO_WORD = re.compile(r"\*+|[^\w\s]|_")


def normalised(text: str) -> str:
    """Return `text` such that texts which differ in case, spacing or punctuation alone become the same.

    Letters, digits, marks and symbols stay, as NFKC and casefold have them; punctuation becomes a space, but for signs
    and what stands between digits. A text of nothing else stays as it is.

    >>> normalised("  A red, STAR. "), normalised("C++ & C#!"), normalised("3.5 - 1"), normalised("?!")
    ('a red star', 'c++ & c#', '3.5 - 1', '?!')
    """
    folded = _folded(text)
    return " ".join(NO_WORD.sub(_kept, folded).split()) or " ".join(folded.split())


def has_words(text: str) -> bool:
    """Return True if `text` is more than spacing and punctuation."""
    return bool(NO_WORD.sub(_kept, _folded(text)).strip())


def count_words(text: str) -> int:
    """Return how many words `text` has; in scripts without spaces two letters count as one.

    >>> count_words("A red star, alone"), count_words("一颗红色的星星")
    (4, 4)
    """
    unspaced = len(UNSPACED.findall(text))
    return sum(map(has_words, UNSPACED.sub(" ", text).split())) + -(-unspaced // 2)


def _folded(text: str) -> str:
    """Folding may bring forth what NFKC would compose."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _kept(found: re.Match[str]) -> str:
    """Return what stays of a character, or of several asterisks: itself, or a space in its place."""
    character, text = found[0], found.string
    category = unicodedata.category(character[0])
    if not category.startswith("P") or character in SIGNS:
        return character
    before, after = text[max(0, found.start() - 2) : found.start()], text[found.end() : found.end() + 2]
    if before[-1:].isdigit() and after[:1].isdigit():  # 3.5, 10:30
        return character
    if category == "Pd" and _is_minus(before, after):
        return "-"
    if character == "*" and before[-1:].isalnum() == after[:1].isalnum():  # a*b and a * b, but no *emphasis*
        return character
    return " "


def _is_minus(before: str, after: str) -> bool:
    """Return True between two numbers, and in front of one."""
    if after[:1].isdigit():
        return not before or before[-1].isspace()
    return before[-2:-1].isdigit() and before[-1:].isspace() and after[:1].isspace() and after[1:2].isdigit()
