"""Normalises texts in any script, counts their words, and turns a question into its opposite."""

import re
import unicodedata

_SIGNS = frozenset("#%&@/\\\N{PER MILLE SIGN}\N{PER TEN THOUSAND SIGN}")
"""Punctuation by Unicode that carries meaning: C#, 50%, R&D, 1/2."""
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Han."""
_IS_THERE = re.compile(r"(Is there|Are there) (?:an?|any) (.+)", re.IGNORECASE)
_NO_WORD = re.compile(r"\*+|[^\w\s]|_")


def normalise_text(text: str) -> str:
    """Normalise `text`, so that texts that differ only in case, spacing or punctuation become equal.

    Letters, digits, marks and symbols are kept, folded by NFKC and casefold; punctuation becomes a space, except for
    signs and between digits. A text that has only punctuation is kept.

    >>> normalise_text("  A red, STAR. "), normalise_text("C++ & C#!"), normalise_text("3.5 - 1"), normalise_text("?!")
    ('a red star', 'c++ & c#', '3.5 - 1', '?!')
    """
    folded = _fold(text)
    return " ".join(_NO_WORD.sub(_keep_sign, folded).split()) or " ".join(folded.split())


def has_words(text: str) -> bool:
    """Return True if `text` has more than spacing and punctuation."""
    return bool(_NO_WORD.sub(_keep_sign, _fold(text)).strip())


def count_words(text: str) -> int:
    """Return the number of words in `text`; in scripts without spaces two letters count as one word.

    >>> count_words("A red star, alone"), count_words("一颗红色的星星")
    (4, 4)
    """
    unspaced = len(_UNSPACED.findall(text))
    return sum(map(has_words, _UNSPACED.sub(" ", text).split())) + -(-unspaced // 2)


def oppose_question(text: str) -> str:
    """Return the opposite of an English yes/no question: its true answer is no if that of `text` is yes.

    "Is there a ..." becomes "Is there no ..."; for any other question, the opposite asks whether its answer is no.

    >>> oppose_question("Is there a dog?"), oppose_question("Is the dog brown?")
    ('Is there no dog?', 'Is the answer to the question "Is the dog brown?" no?')
    """
    found = _IS_THERE.fullmatch(text.strip())
    return f"{found[1]} no {found[2]}" if found else f'Is the answer to the question "{text.strip()}" no?'


def _fold(text: str) -> str:
    # Twice, since the result of casefold may need NFKC again.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _keep_sign(found: re.Match[str]) -> str:
    """Return a character, or several asterisks, if they carry meaning; else a space."""
    character, text = found[0], found.string
    category = unicodedata.category(character[0])
    if not category.startswith("P") or character in _SIGNS:
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
    """Return True between two numbers, and in front of a number."""
    if after[:1].isdigit():
        return not before or before[-1].isspace()
    return before[-2:-1].isdigit() and before[-1:].isspace() and after[:1].isspace() and after[1:2].isdigit()
