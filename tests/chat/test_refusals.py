"""Refusals of servers, in all shapes."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agfsync.chat.refusals import _SUBSTITUTES, adapt_arguments, find_refused_argument, read_refusal

SENT = {
    "model": "m",
    "messages": [],
    "temperature": 0.0,
    "seed": 1,
    "max_tokens": 256,
    "response_format": {"type": "json_schema"},
    "logprobs": True,
    "top_logprobs": 20,
}


def wrapped(message: str, name: str) -> Mapping[str, Any]:
    """A message in every shape of body that is known."""
    return {
        "openai": {"error": {"message": message, "type": "invalid_request_error", "param": name, "code": None}},
        "openai, no param": {"error": {"message": message, "type": "invalid_request_error", "param": None}},
        "gemini": [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}],
        "a text": {"error": message},
        "fastapi": {"detail": message},
        "fastapi's list": {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": message, "input": 1}]},
        "vllm": {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400},
        "mistral": {"object": "error", "message": {"detail": [{"loc": ["body", name], "msg": message}]}},
        "message alone": {"message": message},
        "errors": {"errors": [{"message": message}]},
        "openrouter": {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(
            {"error": {"message": message}})}}},
        "plain": message,
        "html": f"<html><head><title>{message}</title></head><body>...</body></html>",
    }  # fmt: skip


SAYINGS = (
    "Unsupported parameter: '{}' is not supported with this model.",
    'Unknown name "{}": Cannot find field.',
    "Unexpected fields in the request: {{'{}'}}",
    "{}: Extra inputs are not permitted",
    "{} is not allowed",
    "This server doesn't support {} yet",
)


def test_an_argument_that_is_refused_is_understood_in_every_shape() -> None:
    tried = 0
    for name, saying in itertools.product(SENT, SAYINGS):
        if name not in _SUBSTITUTES:
            continue
        for shape, body in wrapped(saying.format(name), name).items():
            for status in (400, 422, 500, 501, 200):
                if status == 200 and isinstance(body, str):
                    continue
                refusal = read_refusal(body, status)
                assert refusal is not None, (shape, status)
                assert find_refused_argument(refusal, SENT) == (name, None), (shape, status, refusal)
                tried += 1
    assert tried > 2_000
    print(f"\nrefusals of an argument: {tried} tried, 0 misunderstood")


@pytest.mark.parametrize("message", ["Insufficient credits", "The model is overloaded, try again"])
def test_the_words_of_an_error_are_found_in_every_shape_also_under_status_200(message: str) -> None:
    for shape, body in wrapped(message, "").items():
        for status in (200, 402, 500):
            refusal = read_refusal(body, status)
            assert refusal is not None and message in refusal.words, (shape, status)
            assert refusal.status == status if status != 200 else refusal.status in (None, 400)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "Insufficient credits", "code": 402}}, 402),
        ({"error": {"message": "no", "code": "429"}}, 429),
        ({"error": {"message": "no", "code": "insufficient_quota"}}, 402),
        ({"error": {"message": "no", "type": "authentication_error"}}, 401),
        ({"error": {"message": "no", "status": "RESOURCE_EXHAUSTED"}}, 429),
        ({"error": {"message": "no"}}, None),
        ({"choices": [{"message": {"content": ""}, "error": {"message": "no", "code": 502}}]}, 502),
        ({"choices": [], "error": {"message": "no", "code": 503}}, 503),
        ("<html><title>Open WebUI</title></html>", None),
        ([], None),
        (None, None),
    ],
)  # fmt: skip
def test_under_status_200_a_body_gives_its_own(body: Any, status: int | None) -> None:
    refusal = read_refusal(body)
    assert refusal is not None and refusal.status == status and refusal.inside


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "yes"}}]},
        {"choices": [{"message": {"content": "yes"}}], "error": None},
        {"choices": [{"message": {"content": ""}}]},
        {"choices": []},
        {},
    ],
)
def test_a_completion_is_no_refusal(body: Any) -> None:
    assert read_refusal(body) is None


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("Requested sample logprobs of 20, which is greater than max allowed: 5", ("top_logprobs", 5)),
        ("top_logprobs must be between 0 and 8", ("top_logprobs", 8)),
        ("top_logprobs must be at most 5", ("top_logprobs", 5)),
        ("Logprobs is not enabled for models/gemini", ("logprobs", None)),
        ("responseFormat is not supported", ("response_format", None)),
        ("structured outputs need another backend", ("response_format", None)),
        ("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", ("max_tokens", None)),
        ("unknown argument", ("response_format", None)),
        # No other name mends these.
        ("This model's maximum context length is 512 tokens. You asked for 256 (max_tokens).", None),
        ("max_tokens is too large: 256. This model supports at most 128 completion tokens", None),
        ("Input is too long: the context window has 512 tokens", None),
    ],
)
def test_a_limit_is_kept_to_and_a_guess_made_only_where_nothing_else_is_said(message: str, found: Any) -> None:
    refusal = read_refusal({"error": {"message": message}}, 400)
    assert refusal is not None and find_refused_argument(refusal, SENT) == found


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "Invalid image", "param": "messages.0.content"}}),
        (401, {"error": {"message": "unknown key"}}),
        (429, {"error": {"message": "top_logprobs is not supported at this rate"}}),
        (500, {"error": {"message": "the seed of all trouble"}}),
        (404, {"error": {"message": "no such model"}}),
    ],
)
def test_what_is_about_something_else_is_no_refused_argument(status: int, body: Any) -> None:
    refusal = read_refusal(body, status)
    assert refusal is not None and find_refused_argument(refusal, SENT) is None


def test_what_was_refused_is_left_out_renamed_or_lowered() -> None:
    assert adapt_arguments(SENT, {"top_logprobs": 5})["top_logprobs"] == 5
    assert {"logprobs", "top_logprobs"}.isdisjoint(adapt_arguments(SENT, {"logprobs": None}))
    renamed = adapt_arguments(SENT, {"max_tokens": None})
    assert renamed["max_completion_tokens"] == 256 and "max_tokens" not in renamed
    assert not {"max_tokens", "max_completion_tokens"} & adapt_arguments(SENT, dict.fromkeys(_SUBSTITUTES)).keys()
    assert SENT["seed"] == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just('{"error": "x"}'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "detail", "code", "loc", "msg", "choices", "metadata", "raw", "param"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(body=JSON, status=st.sampled_from([200, 400, 404, 500]))
def test_any_body_is_read(body: Any, status: int) -> None:
    refusal = read_refusal(body, status)
    if status != 200:
        assert refusal is not None and refusal.words
    if refusal is not None:
        assert len(refusal.words) <= 300
        find_refused_argument(refusal, SENT)
