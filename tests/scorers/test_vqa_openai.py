"""Questions to a model behind a server that is faked: what is sent, and what its replies are taken for."""

import base64
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from fake_language import SECRET, FakeServer, Reply
from PIL import Image

from agfsync.chat.completions import Reply as Said
from agfsync.chat.meter import Meter
from agfsync.errors import ModelError, RecipeError
from agfsync.files.images import decode_image
from agfsync.recipe import Server
from agfsync.recipe.scorers import VqaOpenAISettings
from agfsync.records import Answer, Question
from agfsync.scorers import CapReached, Item, Measurement, Unscored
from agfsync.scorers.vqa_openai import VqaOpenAI, p_yes, read_answer
from agfsync.stages.context import digest_scorer
from agfsync.stages.spending import ACCOUNT

Answers = Callable[[Mapping[str, Any]], Reply]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@contextmanager
def asking(answer: Answers, **changes: Any) -> Iterator[tuple[VqaOpenAI, FakeServer]]:
    """A scorer of a server that answers so; `changes` are of the recipe's section and the fake server's."""
    settings = {name: changes.pop(name) for name in ("timeout", "retries", "concurrency") if name in changes}
    with FakeServer(answer=answer, **changes) as server:
        told = Server(base_url=server.url, **settings).model_dump(exclude=ACCOUNT)
        yield VqaOpenAI(path="fake", server=told), server


def p(scorer: VqaOpenAI, items: list[Item]) -> list[list[float]]:
    results = scorer.score(items)
    return [[answer.p_yes for answer in each.answers] for each in results if isinstance(each, Measurement)]


def test_an_image_is_sent_inline_and_whole_before_its_question(items: list[Item]) -> None:
    with asking(lambda body: "yes") as (scorer, server):
        scorer.score(items[:1])
    (body,) = server.bodies
    image, question = body["messages"][-1]["content"]
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    assert decode_image(base64.b64decode(data)).tobytes() == items[0].image.tobytes()
    assert question == {"type": "text", "text": items[0].questions[0].text}
    assert (body["model"], body["temperature"], body["logprobs"], body["top_logprobs"]) == ("fake", 0, True, 20)


def test_probabilities_and_answers_come_in_the_order_of_the_questions(items: list[Item], onlooker: FakeServer) -> None:
    scorer = VqaOpenAI(path="fake", server=Server(base_url=onlooker.url).model_dump(exclude=ACCOUNT))
    results = [each for each in scorer.score(items) if isinstance(each, Measurement)]
    assert [[a.question_key for a in r.answers] for r in results] == [[q.key for q in i.questions] for i in items]
    assert len({a.p_yes for r in results for a in r.answers}) > 40
    for item, result in zip(items, results, strict=True):
        right = [a.answer == q.answer for a, q in zip(result.answers, item.questions, strict=True)]
        assert result.value == 100 * sum(right) / len(right)


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("no", {"Yes": 0.6, "No": 0.2}, 0.75),
        ("no", {"ĠYES": 0.6, "no": 0.2, "▁no": 0.1, "Not": 0.1}, 0.75),
        ("no", {"No": 0.9, "None": 0.1}, 0.0),
        ("yes", {" yes": 1e-30}, 1.0),
        ("no", {"The": 0.9}, 0.0),  # then the word counts
        ("no", {"Yes": 1e-9}, 0.0),  # and where what was said has no probability
        ("Certainly", {"Yes": 0.5, "No": 0.1}, 5 / 6),
        ("The", {"The": 0.99, "Yes": 1e-3, "No": 1e-9}, None),
    ],
)
def test_p_yes_is_yes_against_no_by_the_likeliest_spelling(
    text: str, first: Mapping[str, float], expected: float | None
) -> None:
    reply = Said(text, {token: math.log(share) for token, share in first.items()})
    assert p_yes(reply) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("yes", 1.0), ("**No**, there isn't.", 0.0), ("maybe", None), ("", None), ("ＹＥＳ", 1.0), ("ja", None)],
        *[("<think>yes or no?</think>\nNo", 0.0), ("No? Let me see.</think>Yes", 1.0), ("<think>Yes", None)],
        *[("Yes or no: hard to say", None), ("No/Yes", None), ("<|begin_of_box|>No<|end_of_box|>", 0.0)],
        *[("Nope", None), ("Not at all", None), ("[THINK]No.[/THINK] Yes", 1.0), ("◁think▷No◁/think▷Yes.", 1.0)],
    ],
)
def test_without_probabilities_the_first_word_counts(text: str, expected: float | None) -> None:
    assert p_yes(Said(text)) == expected


CHOICES = ("red", "light blue", "blue")


@pytest.mark.parametrize(
    ("choices", "text", "first", "answer", "p", "p_expected"),
    [
        (CHOICES[::2], "Blue.", {"Blue": 0.5, " blue": 0.1, "red": 0.2}, "blue", 0.75, 0.6),
        (CHOICES, "Light blue", {"Light": 0.7, "blue": 0.2}, "light blue", 0.0, None),  # no token is light blue
        (CHOICES, "blue", {}, "blue", 1.0, None),
        (CHOICES, "a bluebird", {}, "a", 0.0, None),
        ((), "blue", {"Blue": 0.5, "blue": 0.25, "bluebird": 0.2}, "blue", 0.75, 0.75),
        ((), "Blue it is", {}, "blue", 1.0, None),
        ((), "Reddish", {"Red": 0.9}, "reddish", 0.0, None),
    ],
)
def test_another_answer_is_what_the_reply_begins_with(
    choices: tuple[str, ...], text: str, first: Mapping[str, float], answer: str, p: float, p_expected: float | None
) -> None:
    question = Question("q", "c", "What colour?", "blue", "", "color", (), choices)
    reply = Said(text, {token: math.log(share) for token, share in first.items()})
    expected = None if p_expected is None else pytest.approx(p_expected)
    assert read_answer(question, reply) == Answer("q", answer, pytest.approx(p), expected)


def test_a_number_may_be_a_word_or_digits() -> None:
    question = Question("q", "c", "How many?", "three", "", "counting")
    assert read_answer(question, Said("3", {"3": math.log(0.5), "three": math.log(0.25)})) == Answer(
        "q", "three", pytest.approx(0.75), pytest.approx(0.75)
    )
    assert read_answer(question, Said("?!")) is None or read_answer(question, Said("")) is None


def test_the_choices_are_sent(items: list[Item]) -> None:
    asked = (
        Question("q", "c", "What?", "star", "", "object", (), ("star", "sun")),
        Question("r", "c", "N?", "2", "", "counting"),
    )
    with asking(lambda body: "star", concurrency=1) as (scorer, server):
        (result,) = scorer.score([Item("a star", asked, items[0].image)])
    told = [body["messages"][0]["content"] for body in server.bodies]
    assert told[0].endswith("Answer with one of these: star, sun.") and told[1].endswith("Answer with one word.")
    assert isinstance(result, Measurement) and result.value == 50
    assert [answer.answer for answer in result.answers] == ["star", "star"]


def test_a_server_without_probabilities_is_asked_without(items: list[Item]) -> None:
    with asking(lambda body: "Yes.", refuses=("logprobs", "top_logprobs"), concurrency=1) as (scorer, server):
        assert p(scorer, items[1:3]) == [[1.0, 1.0], [1.0, 1.0, 1.0]]
    sent = [("logprobs" in body, "top_logprobs" in body) for body in server.bodies]
    assert sent == [(True, True), *[(False, False)] * 5]


def test_a_refusal_that_names_nothing_is_taken_for_the_probabilities(items: list[Item]) -> None:
    def answer(body: Mapping[str, Any]) -> Reply:
        return (400, {"error": {"message": "unknown argument"}}) if "logprobs" in body else "no"

    with asking(answer) as (scorer, _):
        assert p(scorer, items[:1]) == [[0.0]]


def test_an_image_with_an_unanswered_question_is_unscored_and_the_others_arent(items: list[Item]) -> None:
    def answer(body: Mapping[str, Any]) -> Reply:
        text = body["messages"][-1]["content"][1]["text"]
        if text == items[2].questions[1].text:
            return 500, {"error": {"message": f"down, with {SECRET}"}}
        return "I am not sure" if text == items[1].questions[0].text else "yes"

    with asking(answer, retries=0) as (scorer, server):
        first, unsure, failed = scorer.score([items[0], items[1], items[2]])
    assert isinstance(first, Measurement)
    says = 'the model\'s reply is neither yes nor no: it begins "I am not sure" (finish_reason stop)'
    assert unsure == Unscored(says)
    assert isinstance(failed, Unscored)
    assert "answered 500" in failed.reason and SECRET not in failed.reason


def test_many_questions_are_under_way_at_a_time_and_failures_are_repeated(items: list[Item]) -> None:
    def answer(body: Mapping[str, Any]) -> Reply:
        time.sleep(0.02)
        return "no"

    with asking(answer, faults=0.3, concurrency=6) as (scorer, server):
        server.faulty = iter(["429", "500"] * 1000)
        results = scorer.score(items)
    assert all(isinstance(each, Measurement) for each in results)
    assert 1 < server.most_at_once <= 6
    assert server.kinds["429"] and server.kinds["500"]


def test_a_cap_leaves_the_images_that_were_judged_before_it(items: list[Item]) -> None:
    meter = Meter(max_tokens=150_000)
    with FakeServer(answer=lambda body: "yes") as server:
        scorer = VqaOpenAI(
            path="fake", server=Server(base_url=server.url, concurrency=1).model_dump(exclude=ACCOUNT), meter=meter
        )
        plain = server.reply

        def dear(body: dict[str, Any], key: str) -> tuple[int, dict[str, str], dict[str, Any]]:
            status, headers, said = plain(body, key)
            return status, headers, said | {"usage": {"prompt_tokens": 20_000, "completion_tokens": 1}}

        server.reply = dear  # type: ignore[method-assign]
        with pytest.raises(CapReached, match="max_tokens_total") as reached:
            scorer.score(items)
    # Five requests leave less room than a sixth might take: the questions of two images, and two of the third's.
    assert [len(item.questions) for item in items[:3]] == [1, 2, 3]
    assert [len(each.answers) for each in reached.value.results if isinstance(each, Measurement)] == [1, 2]
    assert meter.spent.requests == len(server.bodies) == 5


def test_nothing_is_sent_where_nothing_is_asked() -> None:
    with asking(lambda body: "yes") as (scorer, server):
        assert scorer.score([Item("a star", (), Image.new("RGB", (8, 8)))]) == [Unscored("no questions")]
    assert not server.bodies


def test_a_wrong_key_or_model_ends_it(items: list[Item]) -> None:
    for status, says in ((401, "refuses the key"), (404, "has no model 'fake'")):
        reply: Reply = status, {"error": {"message": "no"}}
        with asking(lambda body, reply=reply: reply) as (scorer, _), pytest.raises(ModelError, match=says):
            scorer.score(items[:2])


def test_a_server_is_asked_for_and_has_its_place() -> None:
    with pytest.raises(ModelError, match="needs a server"):
        VqaOpenAI(path="fake")
    from agfsync import catalog

    with pytest.raises(RecipeError, match="a clip scorer has no server"):
        catalog.build("scorers", {"type": "clip", "path": "embedded:clip", "server": {}})


def test_where_the_server_is_doesnt_name_the_scores() -> None:
    here, there = (
        VqaOpenAISettings(type="vqa-openai", path="m", server=Server(base_url=url)) for url in ("http://a", "http://b")
    )
    assert digest_scorer("vqa", here) == digest_scorer("vqa", there)
    assert digest_scorer("vqa", here) != digest_scorer("vqa", here.model_copy(update={"path": "n"}))
