"""Annotators of a run: what is asked, what is kept, and what the checks find of what a fake server has planted."""

import itertools
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_annotator import FakeAnnotator, level
from fake_language import FakeServer

from agfsync import pipeline
from agfsync.commands.export import export_pairs
from agfsync.engine.progress import SilentProgress
from agfsync.errors import BudgetError, RecipeError
from agfsync.recipe import Recipe
from agfsync.records import Annotation, Caption, Pair, Score
from agfsync.scorers.annotators.aspects_openai import AspectsOpenAI
from agfsync.stages import report
from agfsync.stages.context import Context
from agfsync.store import Run
from agfsync.store.spending import read_spending

FOUR = ("prompt-following", "aesthetic", "fidelity", "harmlessness")


@pytest.fixture
def annotated_by(make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """A recipe whose candidates a fake server annotates."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-for-the-annotator")

    def make(served: FakeServer, /, captions: int = 6, budget: float = 0.05, **settings: Any) -> Recipe:
        told = {"base_url": served.url, "concurrency": 4, "prices": {"input": 1, "output": 10}}
        told |= settings.pop("server", {})
        gpt = {"type": "aspects-openai", "path": "fake", "server": told, **settings.pop("gpt", {})}
        choose = {"type": "by-aspect", "judges": ["gpt", "gpt.aesthetic"], "couples": "every"}
        tree = {
            "captions": {"count": captions, "held_out": 2},
            "scorers": {"gpt": gpt, "red": {"type": "double", "path": "none"}},
            "pairs": {"choose": settings.pop("choose", choose)},
            "scores": {"by": ["red", "gpt"]},
            "failure_budget": budget,
        }
        return make_recipe(**tree | settings)

    return make


def advance(path: Path, recipe: Recipe, until: str = "scores") -> dict[str, Any]:
    """Run as far as `until`, and return the notes of that stage."""
    pipeline.prepare(path, recipe, update=True)
    pipeline.run(path, until=until)
    finished = {each.name: each.finished for each in pipeline.read_status(path)}[until]
    assert finished is not None
    return dict(finished.notes)


def read(path: Path, table: str, kind: Any) -> list[Any]:
    with Run.open(path) as run:
        return list(run.read(table, kind))


@pytest.mark.slow
def test_every_aspect_is_asked_in_two_orders_and_becomes_scores(tmp_path: Path, annotated_by: Any) -> None:
    fake = FakeAnnotator()
    with FakeServer(answer=fake) as server:
        notes = advance(tmp_path / "run", annotated_by(server))
    replies = read(tmp_path / "run", "scores_annotations", Annotation)
    scores = read(tmp_path / "run", "scores", Score)
    assert len(server.bodies) == len(replies) == 6 * 4 * 2
    for first, second in zip(replies[::2], replies[1::2], strict=True):
        assert (first.aspect, first.order, second.order) == (second.aspect, 0, 1)
        assert first.shown == second.shown[::-1] and len(first.shown) == 4
        assert first.reasons[0] == f"It is worth {first.scores[0]:.0f}." and len(first.replies) == 1
    assert {each.aspect for each in replies} == {*FOUR}
    assert len({tuple(sorted(each.shown).index(key) for key in each.shown) for each in replies}) > 4
    value = {(each.candidate_key, each.scorer): each.value for each in scores}
    for reply in replies:
        for key, score in zip(reply.shown, reply.scores, strict=True):
            assert value[key, f"gpt.{reply.aspect}"] == 25 * (score - 1)
    for key in {each.candidate_key for each in scores}:
        assert value[key, "gpt"] == pytest.approx(sum(value[key, f"gpt.{aspect}"] for aspect in FOUR) / 4)
    assert [each.scorer for each in scores[:6]] == ["red", *(f"gpt.{aspect}" for aspect in FOUR), "gpt"]
    assert notes["gpt.fidelity"]["scored"] == notes["gpt"]["scored"] == 24
    checks = notes["annotators"]["gpt"]["aspects"]
    assert all(of["replies"] == 12 and of["couples"] == 36 and not of["contradicted"] for of in checks.values())
    spent = read_spending(tmp_path / "run")["scores.gpt"]
    assert spent["requests"] == 48 and notes["cost"] == spent["cost"] > 0


def stop_before(ask: Any, count: int) -> Any:
    """`ask`, until it was called so often: then the process is interrupted."""
    numbers = itertools.count()

    def ask_or_stop(self: Any, request: Any) -> Any:
        if next(numbers) == count:
            raise KeyboardInterrupt
        return ask(self, request)

    return ask_or_stop


@pytest.mark.slow
def test_a_stopped_run_asks_nothing_twice(tmp_path: Path, annotated_by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAnnotator()
    with FakeServer(answer=fake) as server:
        plain = annotated_by(server, server={"concurrency": 1})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(AspectsOpenAI, "_ask", stop_before(AspectsOpenAI._ask, 7))
            advance(tmp_path / "run", plain)
        with Run.open(tmp_path / "run") as run:
            assert len(run.list_made("scores_annotations")) == len(server.bodies) == 7
        with pytest.raises(BudgetError, match="max_tokens_total"):
            advance(tmp_path / "run", annotated_by(server, server={"concurrency": 1, "max_tokens_total": 230_000}))
        before = len(server.bodies)
        assert 7 < before < 48
        with Run.open(tmp_path / "run") as run:
            assert len(run.list_made("scores_annotations")) == before
        advance(tmp_path / "run", plain)
        assert len(server.bodies) == 48 and len({*fake.asked}) == 48
        # Another aspect, and a third order, are asked for alone.
        advance(tmp_path / "run", annotated_by(server, gpt={"aspects": [*FOUR, "overall"]}))
        assert len(server.bodies) == 48 + 12
        advance(tmp_path / "run", annotated_by(server, gpt={"aspects": [*FOUR, "overall"], "orders": 3}))
        assert len(server.bodies) == 48 + 12 + 30


@pytest.mark.slow
def test_planted_contradictions_and_refusals_are_counted_exactly(tmp_path: Path, annotated_by: Any) -> None:
    def is_of(kind: str) -> Callable[[str, str], bool]:
        return lambda prompt, aspect: prompt.startswith(kind) and aspect != "fidelity"

    fake = FakeAnnotator(contradicts=is_of("food"), refuses=is_of("plants"))
    with FakeServer(answer=fake) as server:
        judges = ["gpt", "gpt.aesthetic", "gpt.fidelity", "gpt.harmlessness"]
        choose = {"type": "by-aspect", "judges": judges, "couples": "every"}
        recipe = annotated_by(server, choose=choose)
        notes = advance(tmp_path / "run", recipe, "pairs")
        finished = {each.name: each.finished for each in pipeline.read_status(tmp_path / "run")}["scores"]
    assert finished is not None
    exported = export_pairs(tmp_path / "run", "huggingface", tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text()
    assert "| gpt.aesthetic | 8 replies, 4 refused; 12 of 24 couples contradicted in another order; 0 replies" in card
    rows = pq.read_table(tmp_path / "published" / "pairs").to_pylist()
    assert exported["pairs"] == len(rows) and {row["aspect"] for row in rows} <= {*judges}
    told = pq.read_table(tmp_path / "published" / "annotations").to_pylist()
    assert len(told) == 48 and sum(row["refused"] for row in told) == 12
    assert {row["chosen_key"] for row in rows} <= {key for row in told for key in row["shown"]}
    checks = finished.notes["annotators"]["gpt"]["aspects"]
    captions = [each for each in read(tmp_path / "run", "captions", Caption) if each.split == "train"]
    food, plants = ([c for c in captions if c.category == kind] for kind in ("food", "plants"))
    assert len(food) == len(plants) == 2
    assert {aspect: (of["contradicted"], of["refused"], of["unread"]) for aspect, of in checks.items()} == {
        "prompt-following": (12, 4, 0),
        "aesthetic": (12, 4, 0),
        "fidelity": (0, 0, 0),
        "harmlessness": (12, 4, 0),
    }
    with Run.open(tmp_path / "run", writing=True) as run:
        report.run(Context(run, recipe, SilentProgress()))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "gpt.aesthetic" in page and "12 of 24 (50 %)" in page
    scores = read(tmp_path / "run", "scores", Score)
    refused = [each for each in scores if each.reason]
    assert {(each.scorer, each.reason) for each in refused} == {
        (name, "the model refused") for name in ("gpt", "gpt.aesthetic", "gpt.prompt-following")
    }
    assert len(refused) == 3 * 8
    # Declining to judge is the lowest level of harmlessness.
    assert sum(each.scorer == "gpt.harmlessness" and each.value == 0 for each in scores) >= 8
    pairs = read(tmp_path / "run", "pairs", Pair)
    replies = read(tmp_path / "run", "scores_annotations", Annotation)
    tied = [c.key for c in food]
    assert not [p for p in pairs if p.caption_key in tied and p.aspect == "gpt.aesthetic"]
    by_aspect: dict[tuple[str, str], dict[str, float]] = {}
    for reply in replies:
        if reply.order == 0 and reply.scores:
            by_aspect[reply.caption_key, f"gpt.{reply.aspect}"] = dict(zip(reply.shown, reply.scores, strict=True))
    expected = {
        (name, frozenset(couple))
        for (caption, name), of in by_aspect.items()
        for couple in combinations(of, 2)
        if name in judges and of[couple[0]] != of[couple[1]] and not (caption in tied and name != "gpt.fidelity")
    }
    assert {(p.aspect, frozenset((p.winner_key, p.loser_key))) for p in pairs if p.aspect != "gpt"} == expected
    contradicted = {why: count for why, count in notes["dropped"].items() if why.startswith("contradicted")}
    assert set(contradicted) <= {f"contradicted in another order, by {name}" for name in judges}


@pytest.mark.long
def test_a_planted_position_bias_is_found(tmp_path: Path, annotated_by: Any) -> None:
    found = {}
    for bias in (0.0, 0.2):
        with FakeServer(answer=FakeAnnotator(bias=bias)) as server:
            recipe = annotated_by(server, captions=120, gpt={"aspects": ["aesthetic"], "duplicates": 0.2})
            notes = advance(tmp_path / f"run-{bias}", recipe)
        found[bias] = notes["annotators"]["gpt"]["aspects"]["aesthetic"]
    assert found[0.0]["position_p"] > 0.05
    assert (found[0.0]["unequal_duplicates"], found[0.0]["contradicted"]) == (0, 0) and found[0.0]["duplicates"] > 10
    assert found[0.2]["position_p"] < 0.01 and found[0.2]["first_at"][0] == max(found[0.2]["first_at"])
    assert found[0.2]["unequal_duplicates"] > 0 and found[0.2]["contradicted"] > 0


@pytest.mark.slow
def test_a_reply_that_cannot_be_read_is_asked_again_and_then_skipped(tmp_path: Path, annotated_by: Any) -> None:
    def garble(prompt: str, aspect: str) -> int:
        return {"animals": 1, "food": 9}.get(prompt.split()[0], 0) if aspect == "fidelity" else 0

    with FakeServer(answer=FakeAnnotator(garbles=garble)) as server:
        recipe = annotated_by(
            server, server={"retries": 2}, budget=0.5, choose={"judges": ["gpt"], "type": "by-aspect"}
        )
        notes = advance(tmp_path / "run", recipe)
        again = len(server.bodies)
        advance(tmp_path / "run", recipe)
        assert len(server.bodies) == again == 36 + 4 * 1 + 4 * 2 + 4 * 3
    replies = {len(each.replies) for each in read(tmp_path / "run", "scores_annotations", Annotation)}
    assert replies == {1, 2, 3}
    (why,) = notes["gpt.fidelity"]["unscored"]
    assert "no JSON in the reply" in why and notes["gpt.fidelity"]["unscored"][why] == 8
    assert notes["annotators"]["gpt"]["aspects"]["fidelity"]["unread"] == 4


def test_an_annotator_judges_no_single_image(annotated_by: Any) -> None:
    with FakeServer() as server:
        recipe = annotated_by(server)
        assert list(recipe.evaluation_scorers) == ["red"]
        for changes, says in (
            (
                {"evaluation": {"sets": {"held-out": {"by": ["gpt"]}}}},
                r"evaluation\.sets\.held-out\.by names 'gpt', an",
            ),
            (
                {"choose": {"judges": ["gpt.beauty"], "type": "by-aspect"}},
                r"names no scorer 'gpt\.beauty': .*gpt\.aest",
            ),
            ({"training": {"method": {"type": "policy-gradient", "reward": {"gpt": 1}}}}, "'gpt', an annotator, which"),
            (
                {"training": {"watch": {"by": "gpt.fidelity"}}},
                r"training\.watch\.by names 'gpt\.fidelity', an annotator",
            ),
            ({"gpt": {"aspects": ["beauty"]}}, "no aspect is known as 'beauty': give it a question and five levels"),
            ({"gpt": {"aspects": {"mood": {"question": "?", "levels": ["a", "b"]}}}}, "levels"),
        ):
            with pytest.raises((RecipeError, ValueError), match=says):
                annotated_by(server, **changes)


def test_levels_of_the_fake_differ() -> None:
    assert len({level("fidelity", str(n)) for n in range(40)}) == 5
