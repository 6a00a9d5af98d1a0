import time

import pytest

from agfsync.chat.replies import UnreadableError, find_answer, parse_reply
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
def test_what_is_in_no_reply_is_reported(reply: str, fault: str) -> None:
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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a cat", "a cat"),
        ("<think>a dog?</think>a cat", "a cat"),
        ("a dog?</think>\na cat", "\na cat"),  # the template has written the beginning
        ("<think>a dog</think><think>a cow</think>a cat", "a cat"),
        ("<THINKING>a dog</THINKING> a cat", " a cat"),
        ("[THINK]a dog[/THINK]a cat", "a cat"),
        ("◁think▷a dog◁/think▷a cat", "a cat"),
        ("<seed:think>a dog</seed:think>a cat", "a cat"),
        ("<|begin_of_thought|>a dog<|end_of_thought|>a cat", "a cat"),
        ("<|START_THINKING|>a dog<|END_THINKING|>a cat", "a cat"),
        ("<|channel|>analysis<|message|>a dog<|end|><|start|>assistant<|channel|>final<|message|>a cat", "a cat"),
        ("analysisa dogassistantfinala cat", "a cat"),
        ("<unused94>thought\na dog<unused95>a cat", "a cat"),
        ("<|channel>thought\na dog<channel|>a cat", "a cat"),
        ("<think>a dog", ""),
        ("<think>a dog</think>", ""),
        ("a cat<think>is that right?</think>", "a cat"),
        ("a cat who likes to <think> aloud", "a cat who likes to <think> aloud"),
        ("a dog</think><think>a cow", ""),
        ("", ""),
    ],
)
def test_an_answer_is_what_follows_the_thoughts(text: str, answer: str) -> None:
    assert text[slice(*find_answer(text))] == answer


def test_many_tags_take_no_time() -> None:
    begun = time.process_time()
    for tag in ("<think>", "</think>", "<", "<|channel|>", "[THINK]"):
        find_answer(tag * 50_000)
    assert time.process_time() - begun < 5
