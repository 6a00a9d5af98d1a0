"""TokenCount against those that the very prompts have when they are sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync import recipe as config
from agfsync.chat.endpoint import Endpoint
from agfsync.chat.meter import Meter
from agfsync.commands.doctor.writing import QUESTIONS_KEPT, caption_tokens, counts, question_tokens
from agfsync.language.captions import LanguageModelCaptions
from agfsync.language.questions import LanguageModelQuestions


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
    reckoned = caption_tokens(12 * 40)
    assert reckoned.requests == 12 * len(server.bodies) == 48
    assert reckoned.input / reckoned.requests == pytest.approx(_characters(server.bodies) / 4, rel=0.15)


def test_a_request_for_questions_is_as_long_as_reckoned(key: None) -> None:
    caption = "A steam train crosses a stone viaduct of nine arches, its plume drifting over the pines." * 2
    with FakeServer() as server:
        LanguageModelQuestions(_endpoint(server.url), Meter()).questions(caption[:156], 0)
    reckoned = question_tokens(100, 6, verify=False)
    assert reckoned.requests == 600
    assert reckoned.input / 600 == pytest.approx(_characters(server.bodies) / 4, rel=0.05)
    verified = question_tokens(100, 6, verify=True)
    assert verified.requests == 700 and verified.input > reckoned.input and verified.output > reckoned.output


def test_cost_goes_by_the_prices() -> None:
    tokens = question_tokens(1000, 1, verify=False)
    model = config.LanguageModel(model="words")
    assert tokens.cost(model) is None
    priced = config.LanguageModel.model_validate({"model": "words", "prices": {"input": 1, "output": 10}})
    assert tokens.cost(priced) == pytest.approx((tokens.input + 10 * tokens.output) / 1e6)
    assert tokens.seconds(8) == pytest.approx(tokens.seconds(1) / 8)


def test_captions_and_questions_of_files_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("a red fox\na blue boat\na green hill\n")
    here = counts(config.resolve("shapes", [f"captions.source={source}", "captions.count=2", "captions.held_out=1"]))
    assert (here.written, here.asked, here.train, here.questions) == (0, 3, 2, QUESTIONS_KEPT)


def test_of_the_shapes_world_some_questions_are_asked_for() -> None:
    here = counts(config.resolve("shapes"))
    assert (here.train, here.held_out, here.written, here.pairs) == (128, 300, 428, 128)
    assert 3 < here.questions < 16  # a third of them ask what the caption does not say


def test_pairs_of_a_set_bring_their_captions(pair_set: Any) -> None:
    folder = pair_set(("a fox", "red", "blue"), ("a boat", "blue", "red"))
    here = counts(config.resolve("shapes", [f"pairs.source={folder}"]))
    assert (here.train, here.pairs, here.written) == (2, 2, 300)
