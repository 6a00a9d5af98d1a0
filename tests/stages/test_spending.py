"""What judges behind a server cost a run, and the caps at which it stops."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync import pipeline
from agfsync.errors import BudgetError
from agfsync.recipe import Recipe
from agfsync.records import Score
from agfsync.store import Run
from agfsync.store.spending import SPENDING, read_spending

JUDGE = "scorers.vqa.server"


@pytest.fixture
def judged_by(make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """A recipe whose images a fake server judges, which sees four of them at a time."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-for-the-judge")

    def make(server: FakeServer, **caps: Any) -> Recipe:
        told = {"base_url": server.url, "concurrency": 2, "prices": {"input": 1, "output": 10}, **caps}
        judge = {"type": "vqa-openai", "path": "fake", "server": told}
        scorers = {"red": {"type": "double", "path": "none"}, "vqa": judge}
        return make_recipe(captions={"count": 4, "held_out": 1}, scorers=scorers, scores={"batch": 4})

    return make


def billing(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A server's reply that bills a hundred tokens."""
    message = {"role": "assistant", "content": "yes"}
    usage = {"prompt_tokens": 90, "completion_tokens": 10}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage}


def score(path: Path, recipe: Recipe) -> None:
    pipeline.prepare(path, recipe, update=True)
    pipeline.run(path, until="scores")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cap", "says"),
    [
        ({"max_tokens_total": 53_000}, r"has taken \d+ tokens of {}\.max_tokens_total = 53000, .* --set {}\.max"),
        ({"max_cost": 0.055}, r"has cost 0\.00\d+ of {}\.max_cost = 0\.055, .* --set {}\.max_cost to more goes on"),
    ],
)
def test_a_judges_cap_stops_the_stage_keeps_its_scores_and_goes_on(
    tmp_path: Path, judged_by: Callable[..., Recipe], cap: Mapping[str, Any], says: str
) -> None:
    with FakeServer(answer=lambda body: (200, billing(body))) as server:
        with pytest.raises(BudgetError, match=says.replace("{}", JUDGE.replace(".", r"\."))) as stopped:
            score(tmp_path / "run", judged_by(server, **cap))
        assert "\n" not in str(stopped.value)
        spent = read_spending(tmp_path / "run").get("scores.vqa", {})
        assert 0 < spent["requests"] == len(server.bodies)
        with Run.open(tmp_path / "run") as run:
            keys = run.list_made("scores")
            there = [each for each in run.read("scores", Score, keys) if each.scorer == "vqa"]
        assert 0 < len(there) < 16 and all(each.value is not None for each in there)
        answers = sum(len(each.answers) for each in there)
        # Only the questions of an image that was begun are asked again.
        assert len(server.bodies) - answers < 2 * max(len(each.answers) for each in there) + 2
        before = len(server.bodies)
        score(tmp_path / "run", judged_by(server))
    with Run.open(tmp_path / "run") as run:
        all_ = [each for each in run.read("scores", Score) if each.scorer == "vqa"]
        assert run.list_made("scores")[: len(keys)] == keys
    assert len(all_) == 16
    assert len(server.bodies) - before == sum(len(each.answers) for each in all_) - answers
    spending = json.loads((tmp_path / "run" / "spending.json").read_text())
    assert spending["scores.vqa"]["requests"] == len(server.bodies)
    finished = {each.name: each.finished for each in pipeline.read_status(tmp_path / "run")}["scores"]
    assert finished is not None and finished.notes["requests"] == len(server.bodies)
    assert finished.notes["cost"] == pytest.approx(len(server.bodies) * 190e-6)


@pytest.mark.slow
def test_another_cap_changes_no_score(tmp_path: Path, judged_by: Callable[..., Recipe]) -> None:
    with FakeServer(answer=lambda body: (200, billing(body))) as server:
        score(tmp_path / "run", judged_by(server))
        asked = len(server.bodies)
        score(tmp_path / "run", judged_by(server, max_tokens_total=1_000_000, max_cost=3.0))
        assert len(server.bodies) == asked


@pytest.mark.slow
def test_without_a_server_nothing_is_counted(tmp_path: Path, make_recipe: Any) -> None:
    score(tmp_path / "run", make_recipe(captions={"count": 4, "held_out": 1}))
    assert not (tmp_path / "run" / SPENDING).exists()
