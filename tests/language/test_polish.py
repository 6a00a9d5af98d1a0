import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync.chat.client import Endpoint
from agfsync.chat.meter import Meter
from agfsync.errors import BudgetError
from agfsync.language import PolishedPrompt, UnpolishedPrompt
from agfsync.language.polish import UNUSABLE, LanguageModelPolisher

Make = Callable[..., Endpoint]


def sent(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(json.loads(body["messages"][-1]["content"])["prompts"])


def reply(*items: Mapping[str, Any]) -> str:
    return json.dumps({"prompts": items})


def polish_one(given: Mapping[str, Any]) -> dict[str, Any]:
    text = given["prompt"].replace("ugly ", "")
    changed = "" if text == given["prompt"] else "dropped an insult"
    return {"number": given["number"], "changed": changed, "usable": "yes", "prompt": text}


def test_several_prompts_are_a_request_and_are_sent_as_data(endpoint: Make) -> None:
    with FakeServer(answer=lambda body: reply(*map(polish_one, sent(body)))) as server:
        polisher = LanguageModelPolisher(endpoint(server), Meter())
        found = polisher.polish(["an ugly man", "a fox"], seed=1)
    assert found == [PolishedPrompt("an man", "dropped an insult"), PolishedPrompt("a fox")]
    (body,) = server.bodies
    assert sent(body) == [{"number": 1, "prompt": "an ugly man"}, {"number": 2, "prompt": "a fox"}]
    assert "ugly" not in body["messages"][0]["content"]


def test_a_prompt_that_the_model_refuses_has_its_words(endpoint: Make) -> None:
    refusal = {"number": "1", "changed": "only cruelty", "usable": "No.", "prompt": ""}
    with FakeServer(answer=lambda body: reply(refusal)) as server:
        found = LanguageModelPolisher(endpoint(server), Meter()).polish(["gore"], seed=1)
    assert found == [UnpolishedPrompt(UNUSABLE, "only cruelty")]


def test_what_a_reply_leaves_out_is_asked_for_alone(endpoint: Make) -> None:
    def answer(body: Mapping[str, Any]) -> str:
        return reply(*(polish_one(each) for each in sent(body)[:1]))

    with FakeServer(answer=answer) as server:
        found = LanguageModelPolisher(endpoint(server), Meter()).polish(["one", "two", "three"], seed=1)
    assert [each.text for each in found if isinstance(each, PolishedPrompt)] == ["one", "two", "three"]
    assert [len(sent(body)) for body in server.bodies] == [3, 1, 1]


def test_a_prompt_that_the_server_refuses_costs_the_others_nothing(endpoint: Make) -> None:
    def answer(body: Mapping[str, Any]) -> Any:
        if any("gore" in each["prompt"] for each in sent(body)):
            return 400, {"error": {"message": "blocked by the content policy"}}
        return reply(*map(polish_one, sent(body)))

    with FakeServer(answer=answer) as server:
        found = LanguageModelPolisher(endpoint(server, retries=0), Meter()).polish(["one", "gore", "two"], seed=1)
    assert found[0] == PolishedPrompt("one") and found[2] == PolishedPrompt("two")
    assert isinstance(found[1], UnpolishedPrompt) and "blocked by the content policy" in found[1].reason


def test_a_wrong_number_is_no_answer_and_the_cap_holds(endpoint: Make) -> None:
    stray = {"number": 7, "changed": "", "usable": "yes", "prompt": "a dog"}
    with FakeServer(answer=lambda body: reply(stray)) as server:
        found = LanguageModelPolisher(endpoint(server), Meter()).polish(["a fox"], seed=1)
        assert found == [UnpolishedPrompt("the reply lacks the prompt's number")]
        with pytest.raises(BudgetError):
            LanguageModelPolisher(endpoint(server), Meter((1.0, 1.0), max_cost=1e-9)).polish(["a", "b"], seed=1)
