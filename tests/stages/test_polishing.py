import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_language import SECRET, FakeServer

from agfsync import pipeline
from agfsync.engine.progress import SilentProgress
from agfsync.errors import BudgetError
from agfsync.recipe import Recipe
from agfsync.records import Caption
from agfsync.stages import captions
from agfsync.stages.context import Context
from agfsync.store import Run

PROMPTS = ["an ugly man", "a fox, red, blue", "gore everywhere", "a quiet lake", "a lake, quiet!", "A quiet  LAKE"]


def answer(body: Mapping[str, Any]) -> str:
    given = json.loads(body["messages"][-1]["content"])["prompts"]
    return json.dumps({"prompts": [polish_one(each["number"], each["prompt"]) for each in given]})


def polish_one(number: int, prompt: str) -> dict[str, Any]:
    text = prompt.replace("ugly ", "").replace(", blue", "").replace("lake, quiet!", "quiet lake")
    words = "" if text == prompt else "made it fair"
    if "gore" in prompt:
        return {"number": number, "changed": "only gore", "usable": "no", "prompt": ""}
    return {"number": number, "changed": words, "usable": "yes", "prompt": text}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with FakeServer(answer=answer) as fake:
        yield fake


@pytest.fixture
def recipe(server: FakeServer, make_recipe: Any, tmp_path: Path) -> Recipe:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    prices = {"input": 1.0, "output": 10.0}
    polish = {"type": "openai", "path": "fake", "base_url": server.url, "prices": prices, "timeout": 5.0}
    source = {"source": str(tmp_path / "prompts.txt"), "count": 3, "held_out": 2, "polish": polish}
    return make_recipe(captions=source, failure_budget=0.3)  # type: ignore[no-any-return]


@pytest.fixture
def polishing(context: Context, recipe: Recipe) -> Context:
    return dataclasses.replace(context, recipe=recipe)


def test_a_polished_caption_keeps_its_original_and_says_what_was_changed(polishing: Context) -> None:
    notes = captions.run(polishing)
    found = {each.original: each for each in polishing.run.read("captions", Caption)}
    assert {original: (each.text, each.changed) for original, each in found.items()} == {
        "an ugly man": ("an man", "made it fair"),
        "a fox, red, blue": ("a fox, red", "made it fair"),
        "a quiet lake": ("a quiet lake", ""),
    }
    (skipped,) = polishing.run.list_skipped("captions", own=True)
    assert skipped.reason == "refused by the language model that polishes"
    assert skipped.where == "'gore everywhere': only gore"
    polish = notes["polish"]
    assert (polish["changed"], polish["repeated"]) == (2, 1)
    assert polish["before"]["categories"] == {"uncategorised": 5} and polish["after"]["captions"] == 3
    assert polish["before"]["words"] == {"least": 2, "median": 3, "mean": 3, "most": 4}
    assert polish["after"]["words"] == {"least": 2, "median": 3, "mean": 8 / 3, "most": 3}
    assert polish["requests"] == 1 and polish["cost"] > 0
    assert {each.split for each in found.values()} <= {"train", "held-out"}


def test_what_is_polished_is_not_paid_for_again(polishing: Context, server: FakeServer) -> None:
    captions.run(polishing)
    before = list(polishing.run.read("captions", Caption))
    polishing.run.reopen("captions")
    captions.run(polishing)
    assert list(polishing.run.read("captions", Caption)) == before
    # Only the one that was refused is tried again.
    assert [len(json.loads(b["messages"][-1]["content"])["prompts"]) for b in server.bodies] == [5, 1]


def test_too_many_refusals_stop_the_run(polishing: Context) -> None:
    strict = dataclasses.replace(polishing, recipe=polishing.recipe.with_({"failure_budget": 0.1}))
    with pytest.raises(BudgetError, match=r"captions: 1 of 5 captions skipped: refused .* \('gore everywhere': only"):
        captions.run(strict)


def test_a_cap_stops_it_and_a_higher_one_goes_on(recipe: Recipe, tmp_path: Path, server: FakeServer) -> None:
    folder = tmp_path / "run"
    pipeline.prepare(folder, recipe.with_({"captions.polish.max_cost": 1e-6}), progress=SilentProgress())
    with pytest.raises(BudgetError, match=r"captions\.polish\.max_cost"):
        pipeline.run(folder, until="captions", progress=SilentProgress())
    assert not server.bodies
    pipeline.prepare(folder, recipe, progress=SilentProgress())
    pipeline.run(folder, until="captions", progress=SilentProgress())
    with Run.open(folder) as run:
        assert run.count_rows("captions") == 3
    assert json.loads((folder / "spending.json").read_text())["captions.polish"]["requests"] == 1


def test_a_polished_text_that_is_no_caption_is_skipped(polishing: Context, server: FakeServer) -> None:
    server.answer = lambda body: answer(body).replace("an man", "?!")
    captions.run(dataclasses.replace(polishing, recipe=polishing.recipe.with_({"failure_budget": 0.5})))
    assert "polished caption: empty" in {each.reason for each in polishing.run.list_skipped("captions")}
