import random

import pytest

from agfsync.records import Caption
from agfsync.scorers import Item, Measurement
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.grammar import SHAPES_CATEGORIES, list_questions, parse_caption
from agfsync.shapes.language import FOIL_SHARE, ShapesWriter
from agfsync.shapes.oracle import Oracle
from agfsync.shapes.queries import parse_query
from agfsync.shapes.scene import Scene, Thing, compose_scene
from agfsync.stages.checking import find_question_fault, sift_questions

WRITER = ShapesWriter()


def test_captions_are_all_different_and_none_is_to_be_avoided(category: str) -> None:
    first = WRITER.captions(category, 40, (), 7)
    assert len(set(first)) == 40
    second = WRITER.captions(category, 40, set(first[:25]), 7)
    assert len(set(second)) == 40 and not set(second) & set(first[:25])


def test_the_seed_decides_the_captions() -> None:
    one, again, other = (WRITER.captions("Counting", 20, (), seed) for seed in (1, 1, 2))
    assert one == again != other


def test_it_runs_dry_where_all_is_to_be_avoided() -> None:
    class Everything(set[str]):
        def __contains__(self, caption: object) -> bool:
            return True

    assert WRITER.captions("Counting", 5, Everything(), 0) == []


def test_every_category_is_the_grammars() -> None:
    assert WRITER.categories == SHAPES_CATEGORIES


def test_every_question_that_the_caption_answers_with_yes_is_asked(category: str) -> None:
    for caption in WRITER.captions(category, 30, (), 3):
        drafts = WRITER.questions(caption, 0)
        stated = [draft for draft in drafts if draft.expected == "yes"]
        assert [parse_query(draft.text) for draft in stated] == list_questions(parse_caption(caption))
        assert all(draft.answer == draft.expected and draft.valid for draft in drafts)
        assert len({draft.text for draft in drafts}) == len(drafts)


def test_a_third_of_the_questions_is_answered_no(category: str) -> None:
    drafts = [draft for caption in WRITER.captions(category, 60, (), 3) for draft in WRITER.questions(caption, 0)]
    assert sum(draft.answer == "no" for draft in drafts) / len(drafts) == pytest.approx(FOIL_SHARE, abs=0.06)


def test_every_question_is_answered_as_expected_by_any_scene_of_its_caption(category: str, rng: random.Random) -> None:
    for caption in WRITER.captions(category, 40, (), 9):
        scene = compose_scene(parse_caption(caption), rng)
        for draft in WRITER.questions(caption, 0):
            query = parse_query(draft.text)
            assert query is not None and query.answer(scene) == (draft.answer == "yes"), (caption, draft)


@pytest.mark.parametrize("wrong", [False, True])
def test_the_oracle_scores_foils_by_their_own_answer(wrong: bool) -> None:
    """An image as captioned gets 100; one in the other colour passes just what doesn't depend on it."""
    caption = "a large red star in the centre on a grey background"
    thing = Thing("star", "blue" if wrong else "red", "large", "solid", 32.0, 32.0, 10.6)
    asked, _ = sift_questions(Caption("c", caption, "Locations", "train"), WRITER.questions(caption, 0))
    assert {question.answer for question in asked} == {"yes", "no"}
    (score,) = Oracle().score([Item(caption, tuple(asked), draw_scene(Scene((thing,), "grey")))])
    assert isinstance(score, Measurement)
    assert (score.value < 70) if wrong else (score.value == 100)


def test_the_element_is_the_captions_own_word() -> None:
    drafts = WRITER.questions("two small striped red stars above a blue heart in the centre on a grey background", 0)
    elements = [(draft.element_type, draft.element) for draft in drafts if draft.answer == "yes"]
    assert elements == [
        ("object", "star"),
        ("color", "red"),
        ("shape", "star"),
        ("attribute", "small"),
        ("material", "striped"),
        ("counting", "two"),
        ("object", "heart"),
        ("color", "blue"),
        ("shape", "heart"),
        ("location", "centre"),
        ("spatial", "above"),
        ("other", "grey"),
    ]


def test_every_question_stands_up_to_the_stages_checking(category: str) -> None:
    for caption in WRITER.captions(category, 60, (), 5):
        drafts = WRITER.questions(caption, 0)
        assert {find_question_fault(draft, Caption("", caption, category, "train")) for draft in drafts} == {None}


def test_a_caption_of_another_world_has_no_questions() -> None:
    assert WRITER.questions("a photograph of an astronaut riding a horse", 0) == []


def test_questions_need_no_seed() -> None:
    caption = WRITER.captions("Complex Scenes", 1, (), random.Random(5).getrandbits(32))[0]
    assert WRITER.questions(caption, 0) == WRITER.questions(caption, 1)


def test_the_first_questions_have_their_share_of_foils() -> None:
    caption = WRITER.captions("Complex Scenes", 1, (), 5)[0]
    first = WRITER.questions(caption, 0)[:6]
    assert sorted(draft.expected for draft in first) == ["no", "no", "yes", "yes", "yes", "yes"]
