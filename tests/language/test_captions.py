import json
from collections.abc import Callable
from statistics import fmean

import pytest
from fake_language import FakeServer

from agfsync.chat.client import Endpoint
from agfsync.chat.meter import Meter
from agfsync.errors import BudgetError, NoReplyError
from agfsync.language.captions import CAPTION_CATEGORIES, LanguageModelCaptions
from agfsync.language.text import normalise_text

Make = Callable[..., Endpoint]


def sent(server: FakeServer) -> list[dict[str, object]]:
    return [json.loads(body["messages"][-1]["content"]) for body in server.bodies]


def test_the_categories_are_the_papers_with_five_exemplars_each_as_long_as_the_authors() -> None:
    assert len(CAPTION_CATEGORIES) == 12 and all(
        len(set(c.exemplars)) == 5 and c.about for c in CAPTION_CATEGORIES.values()
    )
    texts = [normalise_text(text) for category in CAPTION_CATEGORIES.values() for text in category.exemplars]
    assert len(set(texts)) == 60
    lengths = [len(text.split()) for category in CAPTION_CATEGORIES.values() for text in category.exemplars]
    assert 22 <= min(lengths) < max(lengths) <= 34 and 25.5 <= fmean(lengths) <= 27


def test_a_request_says_the_category_the_exemplars_and_what_there_is_as_data(endpoint: Make) -> None:
    with FakeServer() as server:
        writer = LanguageModelCaptions(endpoint(server), Meter())
        avoid = [f"caption {n}" for n in range(30)]
        assert len(writer.captions("Plants", 10, avoid, seed=1)) == 10
    (data,) = sent(server)
    assert (data["category"], data["about"], data["count"]) == ("Plants", CAPTION_CATEGORIES["Plants"].about, 10)
    assert sorted(data["exemplars"]) == sorted(CAPTION_CATEGORIES["Plants"].exemplars)  # type: ignore[call-overload]
    assert data["taken"] == avoid[-12:]
    instructions = server.bodies[0]["messages"][0]["content"]
    assert "the more elements it names, and the more precisely, the better" in instructions
    assert "caption 29" not in instructions and CAPTION_CATEGORIES["Plants"].exemplars[0] not in instructions


def test_every_length_is_asked_for_as_often(endpoint: Make) -> None:
    with FakeServer() as server:
        LanguageModelCaptions(endpoint(server), Meter()).captions("Animals", 9, [], seed=1)
    says = server.bodies[0]["messages"][0]["content"]
    assert "3 short, 12 to 20 words; 3 of middling length, 21 to 30 words; 3 long, 31 to 45 words." in says


def test_many_are_asked_for_in_several_requests_at_a_time_each_with_its_own_seed(endpoint: Make) -> None:
    with FakeServer() as server:
        texts = LanguageModelCaptions(endpoint(server), Meter()).captions("People", 42, [], seed=1)
    assert [data["count"] for data in sorted(sent(server), key=lambda d: -int(d["count"]))] == [10] * 4 + [5]  # type: ignore[call-overload]
    assert len(texts) == 45 and len({body["seed"] for body in server.bodies}) == 5


def test_what_some_requests_bring_is_kept_where_others_fail(endpoint: Make) -> None:
    def answer(body: dict[str, object]) -> str:
        said = json.dumps(body)
        return "no" if '\\"count\\": 5' in said else '{"descriptions": ["a fern"]}'

    with FakeServer(answer=answer) as server:  # type: ignore[arg-type]
        writer = LanguageModelCaptions(endpoint(server, retries=0), Meter())
        assert writer.captions("Plants", 15, [], seed=1) == ["a fern"]
        with pytest.raises(NoReplyError):
            writer.captions("Plants", 5, [], seed=1)
        with pytest.raises(BudgetError):
            LanguageModelCaptions(endpoint(server), Meter((1.0, 1.0), max_cost=1e-9)).captions("Plants", 20, [], seed=1)


def test_the_identity_follows_the_model_and_its_temperature_not_the_server(endpoint: Make) -> None:
    with FakeServer() as one, FakeServer() as two:
        made = [endpoint(one), endpoint(two, timeout=9.0), endpoint(one, model="b"), endpoint(one, temperature=0.5)]
        assert len({LanguageModelCaptions(e, Meter()).identity for e in made}) == 3
