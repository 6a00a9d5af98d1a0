"""Captions and questions of a whole run against a server that fails in 30 % of its replies."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_language import FAULTS, FakeServer

from agfsync import cli, pipeline
from agfsync.engine.progress import LogProgress
from agfsync.errors import BudgetError, RunError
from agfsync.language.text import normalise_text
from agfsync.recipe import Recipe, dump
from agfsync.records import Caption, Question
from agfsync.store import Run

Asking = Callable[..., Recipe]


def write(path: Path, recipe: Recipe) -> None:
    pipeline.prepare(path, recipe, progress=LogProgress())
    pipeline.run(path, until="questions", progress=LogProgress())


def spending(path: Path) -> float:
    stages = json.loads((path / "spending.json").read_text())
    return float(sum(stage["cost"] for stage in stages.values()))


def with_retries(recipe: Recipe, retries: int) -> Recipe:
    """`recipe`, whose questions are asked again so often."""
    model = recipe.questions.writer.model_copy(update={"retries": retries})
    return recipe.model_copy(update={"questions": recipe.questions.model_copy(update={"writer": model})})


def check_whole(path: Path, skipped: bool = False) -> None:
    """Every caption is there or skipped with its reason, nothing twice."""
    with Run.open(path) as run:
        captions = list(run.read("captions", Caption))
        questions = list(run.read("questions", Question))
        failures = {each.key: each.reason for each in run.list_skipped("questions")}
    assert len({normalise_text(c.text) for c in captions}) == len({c.key for c in captions}) == len(captions) == 36
    asked = {question.caption_key for question in questions}
    assert asked <= {caption.key for caption in captions}
    assert len(asked) + len(failures) == 36 and all(failures.values())
    assert bool(failures) is skipped
    assert (
        len(questions)
        == len({q.key for q in questions})
        == len({(q.caption_key, normalise_text(q.text)) for q in questions})
    )


@pytest.mark.slow
@pytest.mark.parametrize("retries", [6, 0])
def test_a_run_ends_though_three_replies_in_ten_are_faulty(
    tmp_path: Path,
    asking: Asking,
    retries: int,
    secret: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeServer(faults=0.3, seed=1) as server:
        write(tmp_path / "run", with_retries(asking(server), retries))
    assert all(server.kinds[kind] for kind in FAULTS)
    assert server.most_at_once <= 8
    check_whole(tmp_path / "run", skipped=not retries)
    # A busy machine may reply too late: the server has then billed what the client can't count.
    assert 0.9 * server.billed <= spending(tmp_path / "run") <= server.billed * (1 + 1e-9)
    told = [*capfd.readouterr(), caplog.text, *(p.read_bytes().decode("latin-1") for p in files(tmp_path))]
    assert not any(secret in text for text in told)


@pytest.mark.slow
def test_the_cap_holds_and_a_higher_one_goes_on(tmp_path: Path, asking: Asking) -> None:
    with FakeServer(faults=0.3, seed=2) as server:
        cap = 0.012
        with pytest.raises(
            BudgetError, match=r"of captions\.writer\.max_cost = 0\.012, .* goes on; what is done is kept"
        ):
            write(tmp_path / "run", asking(server, max_cost=cap))
        assert 0 < spending(tmp_path / "run") <= cap
        with Run.open(tmp_path / "run") as run:
            before = run.list_made("captions")
        assert 0 < len(before) < 36
        write(tmp_path / "run", asking(server, max_cost=1.0))
    with Run.open(tmp_path / "run") as run:
        assert run.list_made("captions")[: len(before)] == before
    check_whole(tmp_path / "run")
    # A busy machine may reply too late: the server has then billed what the client can't count.
    assert 0.9 * server.billed <= spending(tmp_path / "run") <= server.billed * (1 + 1e-9)


@pytest.mark.slow
def test_the_cap_of_the_questions_keeps_what_is_done(tmp_path: Path, asking: Asking) -> None:
    with FakeServer() as server:
        with pytest.raises(BudgetError, match=r"questions\.writer\.max_cost"):
            write(tmp_path / "run", asking(server, max_cost=0.1, timeout=9.0))
        assert json.loads((tmp_path / "run" / "spending.json").read_text())["questions"]["cost"] <= 0.1
        with Run.open(tmp_path / "run") as run:
            before = set(run.list_made("questions"))
        asked = len(server.bodies)
        assert 0 < len(before) < 36
        write(tmp_path / "run", asking(server, max_cost=1.0, timeout=9.0))
        assert len(server.bodies) - asked == 2 * (36 - len(before))
    check_whole(tmp_path / "run")


@pytest.mark.slow
def test_the_command_line_tells_a_cap_in_one_line(
    tmp_path: Path, asking: Asking, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(faults=0.3, seed=3) as server:
        file = tmp_path / "quick.yaml"
        file.write_text(dump(asking(server, max_cost=0.03)))
        assert cli.main(["run", str(file), "--out", str(tmp_path / "run"), "--until", "pairs", "--debug"]) == cli.USAGE
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: the language model has cost 0.0")
    assert secret not in said


@pytest.mark.slow
def test_a_finished_run_costs_nothing_more(tmp_path: Path, asking: Asking) -> None:
    with FakeServer() as server:
        write(tmp_path / "run", asking(server, 15, timeout=9.0))
        asked = len(server.bodies)
        write(tmp_path / "run", asking(server, 15, concurrency=2, timeout=8.0, max_cost=2.0))
        assert len(server.bodies) == asked
        finished = pipeline.read_status(tmp_path / "run")[1].finished
        assert finished is not None and finished.notes["requests"] == 2 * 15
        assert finished.notes["dropped"]["element isn't in the caption"] == 2 * 15
        with pytest.raises(RunError, match="captions.writer.temperature 1.0 -> 0.5"):
            same = {"concurrency": 2, "timeout": 8.0, "max_cost": 2.0}
            write(tmp_path / "run", asking(server, 15, **same, temperature=0.5))


def files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()]
