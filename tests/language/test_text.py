import doctest
import unicodedata
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agfsync.language import text as module
from agfsync.language.duplicates import Neighbours
from agfsync.language.text import has_words, normalised

CASES = Path(__file__).parents[3] / "shared" / "cases"
SCRIPTS = (
    *("ปูสีแดง", "ปีสีแดง", "दिन", "दीन", "दून", "a photo of 🐱", "a photo of 🐶", "🚀🌙", "C++", "C#", "C"),
    *("كَتَبَ", "كُتُب", "كتب", "৫০%", "৫০", "50%", "50", "5.0", "5:0", "-50", "+50", "$50", "€50", "#50", "1/2", "12"),
    *("x + y", "x - 1", "x < y", "x > y", "x = y", "x ≠ y", "2 - 3", "2 + 3", "2 * 3", "2 / 3", "2*3", "2/3", "2 3"),
    *(
        "∀x ∃y",
        "∃x ∀y",
        "a → b",
        "a ← b",
        "e\u0301te\u0301",
        "ete",
        "한글",
        "한국",
        "日本語",
        "日本",
        "👩‍🚀",
        "👩",
        "👨‍🚀",
        "🇫🇷",
        "🇩🇪",
    ),
    *("👍🏽", "👍🏿", "♂", "♀", "°C", "R&D", "R D", "شهر", "شَهر", "ไม้", "ไม", "ก็", "ก", "?", "!", "...", "—"),
)
"""Each another text than all others."""


def test_case_spacing_and_punctuation_make_no_difference() -> None:
    assert normalised("  A  red, STAR. ") == normalised("a red star") == "a red star"
    assert normalised("a red star") != normalised("a red square")
    assert normalised("¿Una «estrella»—roja?") == normalised("una estrella roja")
    assert normalised("लाल तारा।") == normalised("लाल तारा") and normalised("نجمة، حمراء؟") == normalised("نجمة حمراء")
    assert normalised("赤い星。") == normalised("赤い星")
    assert normalised("**red** star_fish") == normalised("red star fish")


def test_one_letter_may_be_written_in_several_ways() -> None:
    assert normalised("CAFE\u0301") == normalised("café") and normalised("ＲＥＤ ｓｔａｒ！") == "red star"
    assert normalised("STRASSE") == normalised("Straße") and normalised("ﬁsh") == "fish"
    assert normalised("ΣΊΣΥΦΟΣ") == normalised("σίσυφος") and normalised("ﻛﺘﺐ") == normalised("كتب")


def test_a_text_of_punctuation_alone_stays_as_it_is() -> None:
    assert (normalised("?!"), normalised(" ... "), normalised(" \t\n")) == ("?!", "...", "")
    assert not any(map(has_words, ("?!", "...", " ", "")))
    assert all(map(has_words, ("a", "5", "🚀", "+", "#", "赤")))


def test_all_scripts_have_texts_of_their_own() -> None:
    plain = {text: normalised(text) for text in SCRIPTS}
    same = [pair for pair in combinations(SCRIPTS, 2) if plain[pair[0]] == plain[pair[1]]]
    assert same == []


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
def test_the_case_as_it_was_met() -> None:
    """whisper#2849"""
    prompts = (CASES / "T1-scripts" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert len({normalised(prompt) for prompt in prompts}) == len(prompts) == 11


def essence(text: str) -> str:
    """What is left without spacing and punctuation, by Unicode's categories alone."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(each for each in folded if not each.isspace() and not unicodedata.category(each).startswith("P"))


TEXTS = st.text(max_size=12) | st.text("ab १२ नि ก็ شَ 🐱+-*/#%.,:_ \n12ßΣé", max_size=8)


@given(TEXTS, TEXTS)
@settings(max_examples=500, deadline=None)
@example("C++", "C#")
@example("50%", "50")
def test_texts_that_differ_by_more_are_different(one: str, other: str) -> None:
    if essence(one) != essence(other):
        assert normalised(one) != normalised(other)
    if one.strip() and not essence(one):
        assert normalised(one)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_once_is_enough_and_nothing_is_lost(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert essence(normalised(text)) == essence(text)
    assert has_words(text) or not essence(text)


@given(st.lists(st.text("abcdeé日นิ", min_size=1, max_size=6), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_around_words_punctuation_makes_no_difference(words: list[str]) -> None:
    assert normalised(" ".join(words)) == normalised(f"«{', '.join(words)}»! ") == normalised(" – ".join(words).upper())


def test_near_duplicates_are_told_apart_in_every_script() -> None:
    near = Neighbours(0.7)
    for text in ("ปูสีแดง", "दिन में लाल तारा", "🚀🌙", "C++", "50%"):
        assert not near.near(text)
        near.add(text)
    assert near.near("ปูสีแดง!") and near.near("दिन में, लाल तारा।")
    assert not any(map(near.near, ("ปีสีดำ", "🚀🌞", "C#", "C", "50", "दून में नीला वर्ग")))


def test_the_example_is_so() -> None:
    assert doctest.testmod(module).failed == 0
