"""The parser `spacy`, by the pinned model; without it only its refusal is tested."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from agfsync import catalog
from agfsync.errors import ModelError, RecipeError
from agfsync.language import spacy_syntax
from agfsync.language.parsing import Syntax
from agfsync.language.spacy_syntax import DEFAULT_MODEL, SpacyParser, digest_model_files

IS_THERE = find_spec("spacy") is not None and find_spec(DEFAULT_MODEL) is not None
needs_spacy = pytest.mark.skipif(not IS_THERE, reason="spaCy and its model aren't installed: agfsync[syntax]")


@pytest.fixture(scope="module")
def parser() -> Any:
    return catalog.build("parsers", {"type": "spacy"})


def bound(prompt: str, syntax: Syntax) -> set[tuple[str, str]]:
    words = [prompt[start:end] for start, end in syntax.words]
    return {(words[modifier], words[noun]) for modifier, noun in syntax.pairs}


@needs_spacy
@pytest.mark.parametrize(
    ("prompt", "pairs"),
    [
        ("a red car and a blue bird", {("red", "car"), ("blue", "bird")}),
        ("the car is red and shiny", {("red", "car"), ("shiny", "car")}),
        ("a dog that is red", {("red", "dog")}),
        # The published extractor returns within its loop: only the first noun is seen.
        ("a big cat and a dog that is red", {("big", "cat"), ("red", "dog")}),
        ("The big car and the truck are red.", {("big", "car"), ("red", "car"), ("red", "truck")}),
        ("a bright yellow dress", {("bright", "dress"), ("yellow", "dress")}),
        ("a traffic light", {("traffic", "light")}),
        ("two cats", set()),
        # Without any noun the published code raises a TypeError.
        ("running fast", set()),
        ("", set()),
        ('Paint the "old" house', {("old", "house")}),
    ],
)
def test_modifiers_are_bound_to_their_nouns(prompt: str, pairs: set[tuple[str, str]], parser: Any) -> None:
    assert bound(prompt, parser.parse(prompt)) == pairs


@needs_spacy
def test_phrases_are_those_of_every_level_but_words_and_the_whole(parser: Any) -> None:
    prompt = "a cup of hot tea and a red car."
    phrases = [prompt[start:end] for start, end in parser.parse(prompt).phrases]
    assert phrases == ["a cup of hot tea", "a red car", "a cup", "hot tea"]
    assert parser.parse("a red car.").phrases == []


@needs_spacy
def test_nouns_are_heads_in_every_sentence(parser: Any) -> None:
    prompt = "A traffic light.  Two cats\nand a dog"
    syntax = parser.parse(prompt)
    assert [prompt[slice(*syntax.words[noun])] for noun in syntax.nouns] == ["light", "cats", "dog"]
    assert all(prompt[start:end].strip() for start, end in syntax.words)


@needs_spacy
def test_nothing_is_kept_between_prompts(parser: Any) -> None:
    first = parser.parse("a red car")
    parser.parse("a blue bird")
    assert parser.parse("a red car") == first and parser.identity.startswith("spacy 3.8")


@needs_spacy
def test_other_files_than_the_pinned_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy_syntax, "MODEL_SHA256", "0")
    with pytest.raises(ModelError, match="aren't those of 3.8.0"):
        SpacyParser()


@needs_spacy
def test_a_model_that_is_not_installed_is_refused() -> None:
    with pytest.raises(RecipeError, match="python -m spacy download en_core_web_lg"):
        SpacyParser("en_core_web_lg")


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy_syntax, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'agfsync\[syntax\]'"):
        SpacyParser.check()


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = digest_model_files(tmp_path)
    (tmp_path / "a.pyc").write_bytes(b"y")
    assert digest_model_files(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest_model_files(tmp_path) != before
