import random

from agfsync.records import Caption
from agfsync.shapes.grammar import CATEGORIES, questions, read
from agfsync.shapes.language import ShapesWriter
from agfsync.shapes.queries import parse_query
from agfsync.stages.checking import fault

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
    assert WRITER.categories == CATEGORIES


def test_questions_are_those_of_the_caption_and_answered_yes(category: str) -> None:
    for caption in WRITER.captions(category, 30, (), 3):
        drafts = WRITER.questions(caption, 0)
        assert [parse_query(draft.text) for draft in drafts] == questions(read(caption))
        assert {(draft.answer, draft.valid) for draft in drafts} == {("yes", True)}
        assert len({draft.text for draft in drafts}) == len(drafts)


def test_the_element_is_the_captions_own_word() -> None:
    drafts = WRITER.questions("two small striped red stars above a blue heart in the centre on a grey background", 0)
    elements = [(draft.element_type, draft.element) for draft in drafts]
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
        assert {fault(draft, Caption("", caption, category, "train")) for draft in drafts} == {None}


def test_a_caption_of_another_world_has_no_questions() -> None:
    assert WRITER.questions("a photograph of an astronaut riding a horse", 0) == []


def test_questions_need_no_seed() -> None:
    caption = WRITER.captions("Complex Scenes", 1, (), random.Random(5).getrandbits(32))[0]
    assert WRITER.questions(caption, 0) == WRITER.questions(caption, 1)
