import time

import pytest

from agfsync.chat.thoughts import find_answer


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
