import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fake_language import FakeServer, Reply

from agfsync.chat.client import Client
from agfsync.chat.endpoint import Endpoint
from agfsync.chat.meter import Meter, Spending
from agfsync.errors import AgfsyncError, BudgetError, ModelError, NoReplyError
from agfsync.language.captions import Descriptions

Make = Callable[..., Endpoint]
GOOD = '{"descriptions": ["a cat"]}'


def ask(endpoint: Endpoint, meter: Meter | None = None) -> list[str]:
    return Client(endpoint, meter or Meter()).ask("Write.", {"count": 1}, Descriptions, 2**40).descriptions


def in_turn(*replies: Reply) -> Callable[[Mapping[str, Any]], Reply]:
    """Each of `replies` once, then the last one for ever."""
    left = list(replies)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def failed(status: int, message: str = "no", **more: Any) -> Reply:
    return status, {"error": {"message": message, **more}}


def test_a_schema_a_seed_and_the_data_as_json_are_sent(endpoint: Make) -> None:
    with FakeServer(answer=in_turn(GOOD)) as server:
        assert ask(endpoint(server)) == ["a cat"]
    (body,) = server.bodies
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert json.loads(body["messages"][1]["content"]) == {"count": 1}
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["descriptions"] and schema["additionalProperties"] is False
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("fake", 1.0, 2000)
    assert 0 <= body["seed"] < 2**31


@pytest.mark.parametrize(
    ("refused", "then"),
    [("response_format", None), ("seed", None), ("temperature", None), ("max_tokens", "max_completion_tokens")],
)
def test_what_a_server_refuses_is_remembered(endpoint: Make, refused: str, then: str | None) -> None:
    with FakeServer(answer=in_turn(GOOD), refuses=(refused,)) as server:
        client = Client(endpoint(server), Meter())
        for _ in range(3):
            client.ask("Write.", {}, Descriptions, 0)
    assert [refused in body for body in server.bodies] == [True, False, False, False]
    assert then is None or server.bodies[-1][then] == 2000


def test_an_unnamed_refusal_is_taken_for_the_schemas_and_remembered_only_if_it_was(endpoint: Make) -> None:
    with FakeServer(answer=in_turn(failed(400), failed(400, "the context is full"), GOOD)) as server:
        client = Client(endpoint(server), Meter())
        with pytest.raises(NoReplyError, match="answered 400: .*the context is full"):
            client.ask("Write.", {}, Descriptions, 0)
        client.ask("Write.", {}, Descriptions, 0)
    assert ["response_format" in body for body in server.bodies] == [True, False, True]


def test_without_structured_output_no_schema_is_sent(endpoint: Make) -> None:
    with FakeServer(answer=in_turn(GOOD)) as server:
        ask(endpoint(server, structured=False))
    assert "response_format" not in server.bodies[0]


def test_one_budget_covers_failures_and_replies_that_cannot_be_read(endpoint: Make) -> None:
    with FakeServer(answer=in_turn(failed(500), "no JSON", failed(429), GOOD)) as server:
        assert ask(endpoint(server, retries=3)) == ["a cat"]
    with FakeServer(answer=in_turn(failed(500), "no JSON", failed(429), GOOD)) as server:
        with pytest.raises(NoReplyError, match="answered 429"):
            ask(endpoint(server, retries=2))
        assert len(server.bodies) == 3
    with FakeServer(answer=in_turn("no JSON")) as server:
        with pytest.raises(NoReplyError, match="no reply of fake could be read: no JSON in the reply"):
            ask(endpoint(server, retries=2))
        assert len({body["seed"] for body in server.bodies}) == len(server.bodies) == 3


def test_retry_after_is_honoured(endpoint: Make) -> None:
    with FakeServer(answer=in_turn(GOOD)) as server:
        first = iter([(429, {"Retry-After": "0.3"}, {"error": {"message": "slow down"}})])
        plain = server.reply
        server.reply = lambda body, key: next(first, None) or plain(body, key)  # type: ignore[method-assign]
        begun = time.monotonic()
        assert ask(endpoint(server)) == ["a cat"]
    assert 0.3 <= time.monotonic() - begun < 3


def test_a_server_that_hangs_is_given_up(endpoint: Make) -> None:
    def hang(_: Mapping[str, Any]) -> Reply:
        time.sleep(0.4)
        return GOOD

    with FakeServer(answer=hang) as server, pytest.raises(NoReplyError, match=r"didn't reply within 0\.1 s"):
        ask(endpoint(server, timeout=0.1, retries=0))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (failed(401), r"127\.0\.0\.1:\d+ refuses the key in OPENAI_API_KEY for 'fake' \(401\)"),
        (failed(403), "refuses the key"),
        (failed(404), r"has no model 'fake' \(404\)"),
        (failed(429, code="insufficient_quota"), "your quota is used up"),
    ],
)
def test_what_concerns_every_request_is_reported_at_once(endpoint: Make, reply: Reply, says: str) -> None:
    with FakeServer(answer=in_turn(reply)) as server, pytest.raises(ModelError, match=says) as raised:
        ask(endpoint(server, retries=0))
    assert "\n" not in str(raised.value)


def test_a_missing_server_is_reported(endpoint: Make) -> None:
    with FakeServer() as server:
        gone = endpoint(server, retries=0)
    with pytest.raises(ModelError, match=r"no language model answers at 127\.0\.0\.1:\d+: start it, or mend"):
        ask(gone)


def test_a_missing_key_is_reported_where_one_is_needed(endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeServer(answer=in_turn(GOOD)) as server:
        assert ask(endpoint(server)) == ["a cat"]
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert ask(endpoint(server, base_url=None)) == ["a cat"]
        monkeypatch.delenv("OPENAI_BASE_URL")
        with pytest.raises(ModelError, match=r"no key for api\.openai\.com: set OPENAI_API_KEY, or OPENAI_BASE_URL"):
            ask(endpoint(server, base_url=None))


@pytest.mark.parametrize("status", [400, 401, 422, 429, 500, 503])
def test_no_error_says_the_key(endpoint: Make, status: int, secret: str) -> None:
    echo = failed(status, f"what is {secret}, and Bearer {secret}?")
    with FakeServer(answer=in_turn(echo)) as server, pytest.raises(AgfsyncError) as raised:
        ask(endpoint(server, retries=0))
    assert secret not in repr(raised.value)
    assert raised.value.__suppress_context__


def test_a_key_that_is_none_is_not_said(endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-naïve")
    with FakeServer() as server, pytest.raises(ModelError, match="OPENAI_API_KEY holds what can't be a key") as raised:
        ask(endpoint(server))
    assert "sk-" not in str(raised.value)


def test_a_key_in_a_reply_is_taken_out(endpoint: Make, secret: str) -> None:
    with FakeServer(answer=in_turn(json.dumps({"descriptions": [f"a sign that says {secret}"]}))) as server:
        assert ask(endpoint(server)) == ["a sign that says [key]"]


def test_what_stands_in_for_a_key_is_a_word_like_any(endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "cat")
    with FakeServer(answer=in_turn(GOOD)) as server:
        assert ask(endpoint(server)) == ["a cat"]


def test_replies_are_counted_as_the_server_says_also_those_that_cannot_be_read(endpoint: Make) -> None:
    meter = Meter((1.0, 10.0))
    with FakeServer(answer=in_turn("no JSON", GOOD)) as server:
        ask(endpoint(server), meter)
    assert meter.spent == Spending(2, server.input_tokens, server.output_tokens, pytest.approx(server.billed))


def test_a_server_that_tells_no_tokens_is_counted_by_a_guess(endpoint: Make) -> None:
    meter = Meter((1.0, 10.0))
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": GOOD}}
    with FakeServer(answer=in_turn((200, {"choices": [choice]}))) as server:
        assert ask(endpoint(server), meter) == ["a cat"]
    assert meter.spent.requests == 1 and meter.spent.input_tokens > 50 and meter.spent.output_tokens == len(GOOD) // 4


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [7]}, {"choices": [{"message": None}]}])
def test_a_reply_without_a_message_cannot_be_read(endpoint: Make, body: dict[str, Any]) -> None:
    with FakeServer(answer=in_turn((200, body))) as server, pytest.raises(NoReplyError, match="no JSON in the reply"):
        ask(endpoint(server, retries=0))


def test_the_cap_is_held_before_the_request_is_sent(endpoint: Make) -> None:
    with FakeServer(answer=in_turn(GOOD)) as server:
        with pytest.raises(BudgetError):
            ask(endpoint(server), Meter((1.0, 10.0), max_cost=0.001))
        assert server.bodies == []


def test_an_image_counts_as_images_do_and_not_by_its_bytes(endpoint: Make) -> None:
    seen = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 500_000}}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    meter = Meter(max_tokens=60_000)
    with FakeServer(answer=in_turn((200, {"choices": [choice]}))) as server:
        client = Client(endpoint(server), meter)
        client.reply([{"role": "user", "content": [seen]}])
        assert 1000 < meter.spent.input_tokens < 1100
        with pytest.raises(BudgetError, match="max_tokens_total"):
            client.reply([{"role": "user", "content": [seen, seen]}])


def test_a_client_that_asks_nothing_imports_no_openai() -> None:
    code = "import sys, agfsync.language.captions, agfsync.language.questions; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "body",
    [
        [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.', "status": "INVALID_ARGUMENT"}}],
        {"detail": "Unexpected fields in the request: {'seed'}"},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        {"object": "error", "message": "seed is not supported", "code": 400},
        {"error": "seed is not supported"},
    ],
)
@pytest.mark.parametrize("status", [400, 422, 200])
def test_a_refusal_of_any_shape_is_asked_again_remembered_and_remarked_once(
    endpoint: Make, status: int, body: Any
) -> None:
    meter = Meter()
    with FakeServer(answer=lambda sent: (status, body) if "seed" in sent else GOOD) as server:
        plain = server.reply
        server.reply = lambda sent, key: _listed(plain, sent, key, status, body)  # type: ignore[method-assign]
        client = Client(endpoint(server), meter)
        for _ in range(3):
            assert client.ask("Write.", {}, Descriptions, 0).descriptions == ["a cat"]
    assert ["seed" in sent for sent in server.bodies] == [True, False, False, False]
    assert all("response_format" in sent for sent in server.bodies)
    (remark,) = meter.remarks
    assert remark.endswith("refuses seed: asked without it")


def _listed(plain: Any, sent: dict[str, Any], key: str, status: int, body: Any) -> tuple[int, dict[str, str], Any]:
    """Return the fake server's reply, whose bodies are objects, with a list instead."""
    if "seed" not in sent:
        return plain(sent, key)  # type: ignore[no-any-return]
    with_it = plain.__self__
    with_it.bodies.append(sent)
    return status, {}, body


def test_fewer_log_probabilities_are_asked_for_where_the_server_says_how_many(endpoint: Make) -> None:
    def answer(sent: Mapping[str, Any]) -> Reply:
        return failed(400, "top_logprobs must be at most 5") if sent.get("top_logprobs", 0) > 5 else "yes"

    meter = Meter()
    with FakeServer(answer=answer) as server:
        Client(endpoint(server), meter).reply([], logprobs=True, top_logprobs=20)
    assert [sent["top_logprobs"] for sent in server.bodies] == [20, 5]
    assert meter.remarks[0].endswith("refuses top_logprobs: asked with 5")


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (200, {"error": {"message": "Insufficient credits", "code": 402}}, ModelError, "quota is used up: .*credits"),
        (200, {"error": {"message": "Insufficient credits"}}, ModelError, "quota is used up: .*Insufficient c"),
        (402, {"error": {"message": "Insufficient credits"}}, ModelError, r"used up: .*\(it says: Insufficient c"),
        (200, {"error": {"message": "Bad gateway", "code": 502}}, NoReplyError, "answered 502: Bad gateway"),
        (200, {"detail": "the engine is asleep"}, NoReplyError, "answered with no completion: the engine is asleep"),
        (400, {"error": {"message": "API key not valid. Please pass a valid API key."}}, ModelError, "refuses the key"),
        (403, {"error": {"message": "your input was flagged"}}, NoReplyError, "answered 403: your input was flagged"),
        (403, {"error": {"message": "not your region"}}, ModelError, r"refuses the key .*\(403\): .*not your region"),
        (404, {"detail": "Not Found"}, ModelError, r"no model 'fake' \(404\): .*base_url.* \(it says: Not F"),
        (413, {"message": "image too large"}, NoReplyError, "answered 413: image too large"),
    ],
)  # fmt: skip
def test_what_a_server_says_is_said(endpoint: Make, status: int, body: Any, kind: type[Exception], says: str) -> None:
    with FakeServer(answer=lambda _: (status, body)) as server, pytest.raises(kind, match=says):
        ask(endpoint(server, retries=0))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"<!doctype html><html><head><title>Open WebUI</title></head></html>", 'no completion: a page, "Open WebUI"'),
        (b"upstream is gone", "no completion: upstream is gone"),
        (b'[{"error": {"message": "out of order"}}]', "no completion: out of order"),
        (b"", "no completion: nothing"),
        (b'{"message": {"content": "a cat"}, "done": true}', "it is no completion: an object with message, done"),
    ],
)
def test_what_came_under_status_200_is_said(endpoint: Make, raw: bytes, says: str) -> None:
    with FakeServer() as server:
        server.raw = raw
        with pytest.raises(NoReplyError, match=says):
            ask(endpoint(server, retries=0))


def test_a_failure_under_status_200_is_repeated_within_the_budget(
    endpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agfsync.chat.client._FIRST_WAIT", 0.01)
    busy: Reply = (200, {"error": {"message": "busy", "code": 429}})
    with FakeServer(answer=in_turn(busy, busy, GOOD)) as server:
        assert ask(endpoint(server, retries=2)) == ["a cat"]
    with FakeServer(answer=in_turn(busy, "no JSON", busy, GOOD)) as server:
        with pytest.raises(NoReplyError, match="answered 429: busy"):
            ask(endpoint(server, retries=2))
        assert len(server.bodies) == 3


def said(text: Any, finish: str = "stop", **more: Any) -> Reply:
    return 200, {"choices": [{"finish_reason": finish, "message": {"content": text} | more}]}


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (said("I'd rather not."), r'no JSON in the reply: it begins "I\'d rather not\." \(finish_reason stop\)'),
        (
            said("Sure! Here", "length"),
            r"it was cut at model\.reply_tokens = 2000 \(finish_reason length\): raise that",
        ),
        (said('{"descriptions": ["a c', "length"), "no whole item in the reply: it was cut at"),
        (said(None, reasoning_content=GOOD), "its text lies in reasoning_content"),
        (said('<think>{"descriptions": ["a draft"]}', "length"), "all its text in content, as thoughts"),
        (said(None, refusal="I can't."), 'the model refused: "I can\'t."'),
    ],
)
def test_what_came_instead_of_json_is_said(endpoint: Make, reply: Reply, says: str) -> None:
    with FakeServer(answer=in_turn(reply)) as server, pytest.raises(NoReplyError, match=says):
        ask(endpoint(server, retries=0))


def test_a_reply_in_parts_and_one_that_was_cut_among_its_items_are_read(endpoint: Make) -> None:
    meter = Meter()
    parts = [{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}]
    with FakeServer(answer=in_turn(said(parts), said('{"descriptions": ["a cat", "a d', "length"))) as server:
        assert ask(endpoint(server), meter) == ["a cat"] and not meter.remarks
        assert ask(endpoint(server), meter) == ["a cat"]
    assert meter.remarks == ("replies were cut at model.reply_tokens = 2000 (finish_reason length): raise that",)
    assert not meter.spoilers


def test_a_schema_that_is_left_out_in_silence_is_remarked_once_and_spoils_what_cant_be_read(endpoint: Make) -> None:
    meter = Meter()
    with FakeServer(answer=in_turn(f"```json\n{GOOD}\n```", f"```json\n{GOOD}\n```", "A cat.")) as server:
        client = Client(endpoint(server, retries=0), meter)
        client.ask("Write.", {}, Descriptions, 0)
        client.ask("Write.", {}, Descriptions, 0)
        assert len(meter.remarks) == 1 and "takes response_format" in meter.remarks[0] and not meter.spoilers
        with pytest.raises(NoReplyError, match="; response_format was ignored"):
            client.ask("Write.", {}, Descriptions, 0)
    assert meter.remarks == meter.spoilers


def test_log_probabilities_that_are_left_out_or_begin_with_thoughts_are_remarked(endpoint: Make) -> None:
    thought = {"content": [{"token": "Hm", "logprob": -0.1, "top_logprobs": []}]}
    choice = {"message": {"content": "yes"}, "logprobs": thought}
    meter = Meter()
    with FakeServer(answer=in_turn("yes", (200, {"choices": [choice]}))) as server:
        client = Client(endpoint(server), meter)
        for _ in range(3):
            client.reply([], logprobs=True)
        client.reply([])
    assert ["gives none" in remark for remark in meter.remarks] == [True, False]
    assert "can't be placed" in meter.remarks[1]
