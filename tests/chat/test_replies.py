import pytest

from agfsync.chat.replies import UnreadableError, parse_reply
from agfsync.language.captions import Descriptions
from agfsync.language.questions import Round

PLAIN = '{"descriptions": ["a cat", "a dog"]}'


@pytest.mark.parametrize(
    "reply",
    [
        PLAIN,
        f"```json\n{PLAIN}\n```",
        f"Here [as asked] they are: {PLAIN} Enjoy {{them}}!",
        f'<think>{{"descriptions": ["a long thought, which is no answer at all"]}}</think>{PLAIN}',
        f'An example would be {{"descriptions": []}}, and so: {PLAIN}',
        '["a cat", "a dog"]',
        '{"descriptions": ["a cat", "a dog",],}',
        '{"descriptions": ["a cat", "a dog", "a hor',
        'Sure!\n```json\n{"descriptions": ["a cat", "a dog", ',
        '{"remark": "none", "descriptions": ["a cat", "a dog"]}',
    ],
)
def test_captions_are_found_in_what_models_reply(reply: str) -> None:
    assert parse_reply(reply, Descriptions).descriptions == ["a cat", "a dog"]


def test_what_is_no_text_is_an_empty_one_for_the_stage_to_count() -> None:
    reply = '{"descriptions": ["a cat", 7, {"text": "a cow"}, null, "a dog"]}'
    assert parse_reply(reply, Descriptions).descriptions == ["a cat", "", "", "", "a dog"]


def test_a_string_is_left_as_it_is() -> None:
    assert parse_reply('{"descriptions": ["a ,] b", "c\nd", "\\"e,}\\"",]}', Descriptions).descriptions == [
        "a ,] b",
        "c\nd",
        '"e,}"',
    ]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "no JSON in the reply"),
        ("I can't help with that.", "no JSON in the reply"),
        ('{"descri', "JSON of another shape (field required)"),
        ('{"descriptions": "a cat"}', "JSON of another shape (input should be a valid list)"),
        ('{"descriptions": ["a "big" cat", "a dog"]}', "no JSON in the reply"),
        ("[" * 100_000, "no JSON in the reply"),
        ("{" * 100_000, "no JSON in the reply"),
    ],
)
def test_what_is_in_no_reply_is_told(reply: str, fault: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        parse_reply(reply, Descriptions)
    assert str(raised.value) == fault


def test_odd_questions_are_kept_for_the_checks_to_count() -> None:
    odd = '{"questions": [7, {"question": ["a"], "flag": true}, {"question": "Is it?", "answer": 1, "flag": 0}, null]}'
    found = parse_reply(odd, Round).questions
    assert [(q.question, q.answer, q.flag) for q in found] == [
        ("", "", ""),
        ("", "", "True"),
        ("Is it?", "1", "0"),
        ("", "", ""),
    ]
