import random

import pytest

from agfsync.shapes.grammar import SHAPES_CATEGORIES, invent_spec, parse_caption, write_caption
from agfsync.shapes.scene import COLORS, SHAPES
from agfsync.shapes.syntax import ShapesParser
from agfsync.shapes.words import MATERIAL_WORDS, PLURALS, SIZE_WORDS


@pytest.mark.parametrize("category", SHAPES_CATEGORIES)
def test_what_a_caption_says_of_each_thing_is_bound_to_it(category: str, rng: random.Random) -> None:
    for _ in range(30):
        caption = write_caption(invent_spec(category, rng), rng)
        spec, syntax = parse_caption(caption), ShapesParser().parse(caption)
        words = [caption[start:end].lower() for start, end in syntax.words]
        assert [words[noun] for noun in syntax.nouns] == [
            PLURALS[group.shape] if group.count > 1 else group.shape for group in spec.groups
        ]
        for group, noun in zip(spec.groups, syntax.nouns, strict=True):
            said = {words[modifier] for modifier, other in syntax.pairs if other == noun}
            meant = [group.color, *SIZE_WORDS.get(group.size or "", ()), *MATERIAL_WORDS.get(group.material or "", ())]
            assert said <= {*meant, "stripes"}
            assert len(said) == sum(each is not None for each in (group.color, group.size, group.material))
        grounds = {words[modifier] for modifier, noun in syntax.pairs if words[noun] == "background"}
        assert grounds == ({spec.background} if spec.background else set())


def test_phrases_are_nested_and_never_the_whole_prompt() -> None:
    parser = ShapesParser()
    for caption, phrases in {
        "a red star in the centre and two blue hearts": ["a red star in the centre", "a red star", "two blue hearts"],
        "A red star.": [],
        "a big red star": [],
        "a star on a grey background": ["a star", "a grey background"],
        "a red star with stripes above a cross": ["a red star with stripes", "a cross"],
    }.items():
        assert [caption[start:end] for start, end in parser.parse(caption).phrases] == phrases


def test_words_of_other_worlds_have_no_structure() -> None:
    syntax = ShapesParser().parse("A photo of a cat, at dawn")
    assert len(syntax.words) == 7 and not (syntax.pairs or syntax.phrases or syntax.nouns)
    assert ShapesParser().parse("").words == []


def test_every_color_and_shape_is_known() -> None:
    for color in COLORS:
        for shape in SHAPES:
            caption = f"three {color} {PLURALS[shape]}"
            assert ShapesParser().parse(caption).pairs == [(1, 2)]
