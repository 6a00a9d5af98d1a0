"""TokenCount against those that the very prompts have when they are sent."""

import json
from math import isnan
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync.chat.endpoint import Endpoint
from agfsync.chat.meter import Meter
from agfsync.language.captions import LanguageModelCaptions
from agfsync.language.questions import LanguageModelQuestions
from agfsync.language.tokens import estimate_caption_tokens, estimate_question_tokens


def _characters(bodies: list[dict[str, Any]]) -> float:
    """Of all messages and schemas, a request on the average."""
    return sum(
        sum(len(message["content"]) for message in body["messages"])
        + len(json.dumps(body["response_format"]["json_schema"]["schema"]))
        for body in bodies
    ) / len(bodies)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def _endpoint(url: str) -> Endpoint:
    return Endpoint("words", url, 1.0, True, 1000, 2, 5.0, 1)


def test_a_request_for_captions_is_as_long_as_reckoned(key: None) -> None:
    with FakeServer() as server:
        cat = "A tabby cat on a wooden windowsill beside a pot of red geraniums watches a blackbird"
        taken = [f"{cat} in the wet garden through a pane of glass covered in raindrops."] * 12
        LanguageModelCaptions(_endpoint(server.url), Meter()).captions("Animals", 40, taken, 0)
    reckoned = estimate_caption_tokens(12 * 40)
    assert reckoned.requests == 12 * len(server.bodies) == 48
    assert reckoned.input / reckoned.requests == pytest.approx(_characters(server.bodies) / 4, rel=0.15)


def test_a_request_for_questions_is_as_long_as_reckoned(key: None) -> None:
    caption = "A steam train crosses a stone viaduct of nine arches, its plume drifting over the pines." * 2
    with FakeServer() as server:
        LanguageModelQuestions(_endpoint(server.url), Meter()).questions(caption[:156], 0)
    reckoned = estimate_question_tokens(100, 6, verify=False)
    assert reckoned.requests == 600
    assert reckoned.input / 600 == pytest.approx(_characters(server.bodies) / 4, rel=0.05)
    verified = estimate_question_tokens(100, 6, verify=True)
    assert verified.requests == 700 and verified.input > reckoned.input and verified.output > reckoned.output


def test_cost_goes_by_the_prices() -> None:
    tokens = estimate_question_tokens(1000, 1, verify=False)
    assert isnan(tokens.estimate_cost(0, 0))
    assert tokens.estimate_cost(1, 10) == pytest.approx((tokens.input + 10 * tokens.output) / 1e6)
    assert tokens.estimate_seconds(8) == pytest.approx(tokens.estimate_seconds(1) / 8)
