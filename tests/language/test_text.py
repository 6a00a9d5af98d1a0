import unicodedata
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agfsync.language.duplicates import KeptCaptions
from agfsync.language.text import has_words, normalise_text, oppose_question

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
    assert normalise_text("  A  red, STAR. ") == normalise_text("a red star") == "a red star"
    assert normalise_text("a red star") != normalise_text("a red square")
    assert normalise_text("¿Una «estrella»—roja?") == normalise_text("una estrella roja")
    assert normalise_text("लाल तारा।") == normalise_text("लाल तारा") and normalise_text(
        "نجمة، حمراء؟"
    ) == normalise_text("نجمة حمراء")
    assert normalise_text("赤い星。") == normalise_text("赤い星")
    assert normalise_text("**red** star_fish") == normalise_text("red star fish")


def test_one_letter_may_be_written_in_several_ways() -> None:
    assert normalise_text("CAFE\u0301") == normalise_text("café") and normalise_text("ＲＥＤ ｓｔａｒ！") == "red star"
    assert normalise_text("STRASSE") == normalise_text("Straße") and normalise_text("ﬁsh") == "fish"
    assert normalise_text("ΣΊΣΥΦΟΣ") == normalise_text("σίσυφος") and normalise_text("ﻛﺘﺐ") == normalise_text("كتب")


def test_a_text_of_punctuation_alone_stays_as_it_is() -> None:
    assert (normalise_text("?!"), normalise_text(" ... "), normalise_text(" \t\n")) == ("?!", "...", "")
    assert not any(map(has_words, ("?!", "...", " ", "")))
    assert all(map(has_words, ("a", "5", "🚀", "+", "#", "赤")))


def test_all_scripts_have_texts_of_their_own() -> None:
    plain = {text: normalise_text(text) for text in SCRIPTS}
    same = [pair for pair in combinations(SCRIPTS, 2) if plain[pair[0]] == plain[pair[1]]]
    assert same == []


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
def test_the_case_as_it_was_met() -> None:
    """whisper#2849"""
    prompts = (CASES / "T1-scripts" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert len({normalise_text(prompt) for prompt in prompts}) == len(prompts) == 11


def essence(text: str) -> str:
    """Return the text without spacing and punctuation, by Unicode's categories alone."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(each for each in folded if not each.isspace() and not unicodedata.category(each).startswith("P"))


TEXTS = st.text(max_size=12) | st.text("ab १२ नि ก็ شَ 🐱+-*/#%.,:_ \n12ßΣé", max_size=8)


@given(TEXTS, TEXTS)
@settings(max_examples=500, deadline=None)
@example("C++", "C#")
@example("50%", "50")
def test_texts_that_differ_by_more_are_different(one: str, other: str) -> None:
    if essence(one) != essence(other):
        assert normalise_text(one) != normalise_text(other)
    if one.strip() and not essence(one):
        assert normalise_text(one)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_once_is_enough_and_nothing_is_lost(text: str) -> None:
    assert normalise_text(normalise_text(text)) == normalise_text(text)
    assert essence(normalise_text(text)) == essence(text)
    assert has_words(text) or not essence(text)


@given(st.lists(st.text("abcdeé日นิ", min_size=1, max_size=6), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_around_words_punctuation_makes_no_difference(words: list[str]) -> None:
    assert (
        normalise_text(" ".join(words))
        == normalise_text(f"«{', '.join(words)}»! ")
        == normalise_text(" – ".join(words).upper())
    )


def test_near_duplicates_are_recognised_in_every_script() -> None:
    near = KeptCaptions(0.7)
    for text in ("ปูสีแดง", "दिन में लाल तारा", "🚀🌙", "C++", "50%"):
        assert not near.is_near(text)
        near.add(text)
    assert near.is_near("ปูสีแดง!") and near.is_near("दिन में, लाल तारा।")
    assert not any(map(near.is_near, ("ปีสีดำ", "🚀🌞", "C#", "C", "50", "दून में नीला वर्ग")))


@pytest.mark.parametrize(
    ("question", "opposite"),
    [
        ("Is there a dog?", "Is there no dog?"),
        ("are there any dogs in the picture?", "are there no dogs in the picture?"),
        ("Are there two dogs?", 'Is the answer to the question "Are there two dogs?" no?'),
        (" Does the dog run? ", 'Is the answer to the question "Does the dog run?" no?'),
    ],
)
def test_the_opposite_asks_for_the_other_answer(question: str, opposite: str) -> None:
    assert oppose_question(question) == opposite
