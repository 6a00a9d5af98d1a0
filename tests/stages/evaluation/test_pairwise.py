"""Pairwise judging of a set: what a faked server is asked, what is kept of its replies, and what is found in them."""

import base64
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_language import FakeServer, Reply
from PIL import Image

from agfsync.engine.progress import SilentProgress
from agfsync.errors import BudgetError, ModelError, RecipeError
from agfsync.files.images import decode_image, encode_png
from agfsync.recipe import Recipe, check_recipe
from agfsync.records import Candidate, Caption, Vote
from agfsync.stages import shaping
from agfsync.stages.context import Context
from agfsync.stages.controls import make_control_recipe
from agfsync.stages.evaluation.pairwise import VOTES, judge_pairwise
from agfsync.stages.judging import ImageToJudge
from agfsync.store import Run
from agfsync.store.spending import read_spending

PROMPTS = 24
ALL = ("preference", "alignment", "appeal")
LOCAL = {"type": "pairwise", "path": "x/y"}
BASE, ALIGNED = 100, 200
"""The brightness of either model's images."""


def recipe(url: str, asks: tuple[str, ...] = ("appeal",), **server: Any) -> Recipe:
    judge = {"type": "pairwise-openai", "path": "fake", "asks": asks, "server": {"base_url": url, **server}}
    sets = {"held-out": {}, "arena": {"of": "held-out", "pairwise": judge}}
    return check_recipe({"evaluation": {"sets": sets, "resamples": 100}, "failure_budget": 0.1}, "test")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run with the images of both models on some captions."""
    with Run.create(tmp_path / "run", "name: test\n") as made:
        images = {}
        for n in range(PROMPTS):
            for model, brightness in (("base", BASE), ("aligned", ALIGNED)):
                file = encode_png(Image.new("RGB", (4, 4), (brightness, n, 0)))
                images[f"{model}{n}"] = [Candidate(f"{model}{n}", f"c{n}", 0, n, model, file)]
        made.commit("evaluation_images", images, Candidate.schema)
        made.select("evaluation_images", images)
        yield made


def judge(run: Run, of: Recipe) -> dict[str, Any]:
    captions = [Caption(f"c{n}", f"caption {n}", "things", "held-out") for n in range(PROMPTS)]
    images = {
        f"{model}{n}": ImageToJudge(f"{model}{n}", f"{model}{n}", f"caption {n}", ())
        for n in range(PROMPTS)
        for model in ("base", "aligned")
    }
    sides = {f"c{n}": (f"base{n}", f"aligned{n}") for n in range(PROMPTS)}
    context = Context(run, of, SilentProgress())
    return judge_pairwise(context, "evaluation_images", images, sides, {"held-out": captions})


def seen(body: Mapping[str, Any]) -> tuple[list[int], int, str]:
    """The brightness of the images in the order shown, the number of their caption, and the question."""
    content = body["messages"][-1]["content"]
    files = [part["image_url"]["url"].partition(",")[2] for part in content if part["type"] == "image_url"]
    pixels: list[Any] = [decode_image(base64.b64decode(file)).getpixel((0, 0)) for file in files]
    return [each[0] for each in pixels], pixels[0][1], content[-1]["text"]


def say(choice: Any) -> str:
    return json.dumps({"reason": "it is brighter", "choice": choice})


@contextmanager
def serving(answer: Callable[[Mapping[str, Any]], Reply]) -> Iterator[FakeServer]:
    with FakeServer(answer=answer) as server:
        yield server


def brighter(body: Mapping[str, Any]) -> Reply:
    (first, second), _, _ = seen(body)
    return say("1" if first > second else "2")


def test_each_match_is_asked_in_both_orders_and_appeal_without_the_prompt(run: Run) -> None:
    with serving(brighter) as server:
        found = judge(run, recipe(server.url, ALL))["arena"]
    asked = Counter((tuple(order), "caption" in text) for order, _, text in map(seen, server.bodies))
    assert asked == {
        ((BASE, ALIGNED), True): 2 * PROMPTS,
        ((ALIGNED, BASE), True): 2 * PROMPTS,
        ((BASE, ALIGNED), False): PROMPTS,
        ((ALIGNED, BASE), False): PROMPTS,
    }
    assert list(found) == ["preference", "alignment", "appeal"]
    assert all((f["wins"], f["adjusted"], f["first"], f["agreed"]) == (PROMPTS, 1.0, 0.5, 1.0) for f in found.values())


def test_votes_are_kept_with_reason_and_reply(run: Run) -> None:
    with serving(brighter) as server:
        judge(run, recipe(server.url, ALL))
    votes = list(run.read(VOTES, Vote))
    assert len(votes) == 6 * PROMPTS
    assert {(v.first, v.choice, v.explanation, v.reason) for v in votes} == {
        (first, "aligned", "it is brighter", None) for first in ("base", "aligned")
    }
    assert {json.loads(v.reply)["choice"] for v in votes if v.first == "base"} == {"2"}
    assert read_spending(run.path)["evaluation.sets.arena"]["requests"] == 6 * PROMPTS


def test_a_planted_position_bias_is_found(run: Run) -> None:
    """Two of three prompts are decided by the position alone, the others by brightness."""

    def biased(body: Mapping[str, Any]) -> Reply:
        return say(1) if seen(body)[1] % 3 else brighter(body)

    with serving(biased) as server:
        figures = judge(run, recipe(server.url))["arena"]["appeal"]
    by_brightness = len(range(0, PROMPTS, 3))
    assert (figures["wins"], figures["ties"], figures["losses"]) == (by_brightness, PROMPTS - by_brightness, 0)
    assert figures["first"] == pytest.approx((0.5 * by_brightness + PROMPTS - by_brightness) / PROMPTS)
    assert figures["first_low"] > 0.5


def test_choices_by_lot_show_neither_a_winner_nor_a_position(run: Run) -> None:
    rng, lock = random.Random(1), threading.Lock()

    def by_lot(body: Mapping[str, Any]) -> Reply:
        with lock:
            return say(rng.choice(["1", "2", "tie"]))

    with serving(by_lot) as server:
        found = judge(run, recipe(server.url, concurrency=1))["arena"]
    for figures in found.values():
        assert figures["low"] <= 0.5 <= figures["high"]
        assert figures["first_low"] <= 0.5 <= figures["first_high"]


def test_after_a_failure_nothing_is_asked_twice(run: Run) -> None:
    answered: list[tuple[tuple[int, ...], int, str]] = []

    def failing(body: Mapping[str, Any]) -> Reply:
        order, prompt, text = seen(body)
        if len(answered) == 20:
            return 404, {"error": {"message": "no such model"}}
        answered.append((tuple(order), prompt, text))
        return brighter(body)

    with serving(failing) as server:
        with pytest.raises(ModelError, match="no model 'fake'"):
            judge(run, recipe(server.url, concurrency=1))
        assert len(answered) == 20
        server.answer = lambda body: answered.append((tuple(seen(body)[0]), *seen(body)[1:])) or brighter(body)
        figures = judge(run, recipe(server.url, concurrency=1))["arena"]["appeal"]
        assert figures["wins"] == PROMPTS
        asked = len(answered)
        assert (asked, len(set(answered))) == (2 * PROMPTS, 2 * PROMPTS)
        judge(run, recipe(server.url, concurrency=1))
        assert len(answered) == asked


def test_a_cap_stops_and_keeps_what_was_paid(run: Run) -> None:
    with serving(brighter) as server:
        with pytest.raises(BudgetError, match=r"evaluation\.sets\.arena\.pairwise\.server\.max_tokens_total"):
            judge(run, recipe(server.url, max_tokens_total=105_000, reply_tokens=100))
        first = len(server.bodies)
        assert 0 < first < 2 * PROMPTS
        assert judge(run, recipe(server.url, reply_tokens=100))["arena"]["appeal"]["wins"] == PROMPTS
        assert len(server.bodies) == 2 * PROMPTS


def test_replies_without_a_choice_are_kept_and_counted(run: Run) -> None:
    def vague(body: Mapping[str, Any]) -> Reply:
        return "Both are lovely." if seen(body)[1] == 7 else brighter(body)

    with serving(vague) as server:
        figures = judge(run, recipe(server.url))["arena"]["appeal"]
    assert (figures["prompts"], figures["unread"]) == (PROMPTS - 1, 1)
    unread = [vote for vote in run.read(VOTES, Vote) if vote.choice is None]
    assert len(unread) == 2
    assert {vote.reply for vote in unread} == {"Both are lovely."}
    assert all("holds no choice" in str(vote.reason) for vote in unread)


def test_too_many_replies_without_a_choice_stop_the_run(run: Run) -> None:
    with serving(lambda body: "Both are lovely.") as server, pytest.raises(BudgetError, match="48 of 48 votes"):
        judge(run, recipe(server.url))


@pytest.mark.parametrize(
    ("sets", "fault"),
    [
        ({"held-out": {}, "arena": {"of": "held-out"}}, "needs both"),
        ({"held-out": {}, "arena": {"of": "nothing", "pairwise": LOCAL}}, "names no set"),
        ({"arena": {"of": "held-out", "pairwise": LOCAL}, "held-out": {}}, "comes first"),
        (
            {
                "held-out": {},
                "arena": {"of": "held-out", "by": ["clip"], "pairwise": LOCAL},
            },
            "leave out all but",
        ),
        ({"held-out": {}, "arena": {"of": "held-out", "pairwise": {"type": "pair", "path": "x/y"}}}, "did you mean"),
    ],
)
def test_a_set_that_cannot_be_judged_is_refused(sets: dict[str, Any], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        check_recipe({"evaluation": {"sets": sets}}, "test")


def test_a_cap_or_a_server_changes_no_result_and_a_control_is_not_judged() -> None:
    plain, capped = recipe("http://a/v1"), recipe("http://b/v1", max_tokens_total=5)
    assert shaping.evaluation(plain) == shaping.evaluation(capped)
    assert shaping.evaluation(plain) != shaping.evaluation(check_recipe({"failure_budget": 0.1}, "test"))
    assert list(make_control_recipe(plain, "random-sft").evaluation.sets) == ["held-out"]
    assert plain.set_scorers("arena") == {}
