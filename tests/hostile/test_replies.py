"""Tests of the parser, the writers and the stages with hundreds of malformed replies: none makes a wrong record."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import Mock

import pytest
from fake_language import SECRET, FakeServer, endpoint_at
from malformed_replies import CAPTION, CAPTIONS, QUESTIONS, malformed
from pydantic import BaseModel

from agfsync.chat.meter import Meter
from agfsync.chat.replies import UnreadableError, parse_reply
from agfsync.errors import NoReplyError
from agfsync.language.captions import Descriptions, LanguageModelCaptions
from agfsync.language.questions import LanguageModelQuestions, Round, Verdicts
from agfsync.language.text import normalise_text
from agfsync.records import Caption, ElementType, Question, one_line
from agfsync.stages import captions, questions
from agfsync.stages.checking import MOST_CAPTION_CHARACTERS, MOST_QUESTION_CHARACTERS, sift_captions, sift_questions
from agfsync.stages.context import Context

pytestmark = pytest.mark.slow

SHAPES: Mapping[str, type[BaseModel]] = {"captions": Descriptions, "questions": Round}
GOOD_CAPTIONS = {*CAPTIONS["descriptions"], "x"}
"""The good captions, and a text of a malformed reply that could be one."""
GOOD_QUESTIONS = {each["question"] for each in QUESTIONS["questions"]}
PLAIN = {"x", "True", "False", "0", "-1", "1.5", "inf", "-inf", "nan"}
"""Texts that some replies have instead of a question."""
Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(params=["captions", "questions"])
def of(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_parser_gives_what_was_asked_for_or_says_why_not(of: str) -> None:
    outcomes: Counter[str] = Counter()
    for name, reply in malformed(of).items():
        try:
            found = parse_reply(reply, SHAPES[of])
        except UnreadableError as reason:
            outcomes[str(reason)] += 1
            assert "\n" not in str(reason), name
            continue
        outcomes["read in part"] += 1
        assert isinstance(found, SHAPES[of]), name
    assert outcomes.total() == len(malformed(of)) >= 200
    assert outcomes["no JSON in the reply"] > 20 and outcomes["read in part"] > 20
    print(f"\nmalformed replies to a request for {of}: {outcomes.total()} tried, 0 crashed; {dict(outcomes)}")


def test_another_requests_reply_is_none(of: str) -> None:
    """Whatever one request is answered with, no other takes it for its own."""
    for reply in malformed(of).values():
        for shape in (Verdicts, SHAPES["questions" if of == "captions" else "captions"]):
            try:
                found = parse_reply(reply, shape)
            except UnreadableError:
                continue
            if isinstance(found, Descriptions):
                assert not {one_line(text) for text in sift_captions(found.descriptions)[0]} - GOOD_CAPTIONS - {""}
            elif isinstance(found, Round):
                drafts = [question for question in found.questions if question.question]
                assert not drafts


def test_the_captions_writer_gives_the_good_ones_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = _ask_each(monkeypatch, LanguageModelCaptions, "captions", lambda w: w.captions("Animals", 3, [], 0))
    for name, texts in replies:
        assert {one_line(text) for text in sift_captions(texts)[0]} <= GOOD_CAPTIONS | {""}, name


def test_the_questions_writer_gives_the_good_ones_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    caption = Caption("key", CAPTION, "Animals", "train")
    kept: Counter[int] = Counter()
    replies = _ask_each(monkeypatch, LanguageModelQuestions, "questions", lambda w: w.questions(CAPTION, 0))
    for name, drafts in replies:
        asked, dropped = sift_questions(caption, drafts)
        assert len(asked) + dropped.total() == len(drafts), name
        kept[len(asked)] += 1
        for question in asked:
            _check(question, caption.text)
    assert kept[0] > 20 and kept[3] > 20


@pytest.mark.long
def test_a_run_has_every_caption_or_its_reason(context: Context, make_recipe: Make, tmp_path: Path) -> None:
    """One malformed reply a caption: each caption keeps right questions, or is skipped with why."""
    replies = list(malformed("questions").values())
    file = tmp_path / "captions.txt"
    file.write_text("".join(f"{CAPTION} on day {number}\n" for number in range(len(replies))))

    def answer(body: Mapping[str, Any]) -> str:
        asked: str = json.loads(body["messages"][-1]["content"])["caption"]
        return replies[int(re.findall(r"\d+", asked)[0])]

    with FakeServer(answer=answer) as server:
        model = {
            "type": "openai",
            "path": "fake",
            "base_url": server.url,
            "retries": 0,
            "concurrency": 4,
            "structured": False,
        }
        recipe = make_recipe(
            captions={"source": str(file), "count": len(replies), "held_out": 0},
            questions={"writer": model, "rounds": 1},
            failure_budget=1.0,
        )
        context = dataclasses.replace(context, recipe=recipe)
        captions.run(context)
        notes = questions.run(context)
    texts = {caption.key: caption.text for caption in context.run.read("captions", Caption)}
    there = list(context.run.read("questions", Question))
    failures = {each.key: each.reason for each in context.run.list_skipped("questions")}
    assert len({question.caption_key for question in there}) + len(failures) == len(texts) == len(replies)
    for question in there:
        _check(question, texts[question.caption_key])
    assert all(failures.values()) and len(failures) > 100
    reasons = Counter(re.sub(r"\(.*", "", reason) for reason in failures.values())
    dropped = Counter(notes["dropped"])
    assert dropped["repeated"] and dropped["called invalid by its writer"]
    print(
        f"\n{len(replies)} captions with a malformed reply each: {len(texts) - len(failures)} kept questions,"
        f" {dict(reasons)} skipped; questions dropped: {dict(dropped)}"
    )


def test_a_run_keeps_no_malformed_caption(context: Context, make_recipe: Make) -> None:
    """Malformed replies and good ones by turns: the captions that are asked for are there, and what was left out."""
    some = list(malformed("captions").values())[::4]
    replies = iter(some)
    turn: Iterator[int] = iter(range(10**6))
    fresh: set[str] = set()

    def answer(body: Mapping[str, Any]) -> str:
        number = next(turn)
        reply = next(replies, None) if number % 2 == 0 else None
        if reply is not None:
            return reply
        fresh.add(f"caption number {number} of {number * 7919 % 10007} herons")
        return json.dumps({"descriptions": [f"caption number {number} of {number * 7919 % 10007} herons"]})

    with FakeServer(answer=answer) as server:
        model = {"type": "openai", "path": "fake", "base_url": server.url, "retries": 0, "concurrency": 1}
        # Some of the malformed ones bring captions too.
        count = len(some) + 20
        wanted = {"count": count, "held_out": 0, "similarity": 1.0}
        recipe = make_recipe(captions={"writer": model, **wanted})
        notes = captions.run(dataclasses.replace(context, recipe=recipe))
    assert next(replies, None) is None
    texts = [caption.text for caption in context.run.read("captions", Caption)]
    assert len(texts) == len(set(texts)) == count == notes["train"]
    assert set(texts) <= fresh | GOOD_CAPTIONS
    assert {"empty", "repeated"} <= notes["dropped"].keys()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[" * 100_000,
        b'{"choices": ' + b"[" * 100_000,
        b'{"choices": [{"message": {"content": ' + b"9" * 5000 + b"}}]}",
        b'{"choices": [{"message": {"content": ["a", {"b": 1}]}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}], "usage": {"prompt_tokens": -1, "completion_tokens": NaN}}',
        b'{"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": 1e400, "completion_tokens": true}}',
        b'{"choices": {"message": 7}, "usage": []}',
        b'{"choices": [{"message": {"content": "yes"}, "logprobs": {"content": [{"top_logprobs": [{"token": 1}]}]}}]}',
        b"\xff\xfe\x00",
        b"<html>502 Bad Gateway</html>",
        b'"text"',
        b"null",
    ],
)
def test_a_server_that_speaks_no_completion_is_no_crash(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server:
        server.raw = body
        with pytest.raises(NoReplyError) as raised:
            LanguageModelCaptions(endpoint_at(server, retries=0, concurrency=1), Meter()).captions("Animals", 3, [], 0)
    assert "\n" not in str(raised.value)


def _check(question: Question, caption: str) -> None:
    """Check that the caption answers a question, and that a table can hold it."""
    assert question.text in GOOD_QUESTIONS | PLAIN, question.text
    assert question.answer == "yes" and question.element_type in get_args(ElementType)
    assert any(word in caption for word in normalise_text(question.element).split())
    assert len(question.text) <= MOST_QUESTION_CHARACTERS < MOST_CAPTION_CHARACTERS
    for text in (question.text, question.element):
        assert text == one_line(text) and text.encode()


def _ask_each(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], of: str, ask: Callable[[Any], Any]
) -> Iterator[tuple[str, Any]]:
    """Yield a writer's result for each malformed reply, with the fault; one that it can't read gives a line instead.

    No server takes part: a reply goes there as ASCII, and the runs above send each through one.
    """
    replies, sent = malformed(of), []

    def create(**arguments: Any) -> SimpleNamespace:
        sent.append(arguments)
        choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": replies[name]}}
        return SimpleNamespace(text=json.dumps({"choices": [choice]}), retries_taken=0)

    openai = Mock()
    openai.with_options.return_value.chat.completions.with_raw_response.create = create
    monkeypatch.setattr("agfsync.chat.client.open_client", lambda endpoint: openai)
    endpoint = endpoint_at(SimpleNamespace(url="http://127.0.0.1:9/v1"), retries=0, concurrency=1)
    writer = kind(endpoint, Meter())
    for name in replies:
        try:
            given = ask(writer)
        except NoReplyError as reason:
            assert "\n" not in str(reason) and SECRET not in str(reason), name
            continue
        yield name, given
    assert len(sent) == len(replies)
