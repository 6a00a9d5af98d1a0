"""A planted key, which servers say back in every way: no file, log, line or traceback of a run holds it."""

import json
import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_language import FakeServer, Reply, good

from agfsync import cli, pipeline
from agfsync.engine.progress import SilentProgress
from agfsync.recipe import Recipe, dump
from agfsync.stages import report
from agfsync.stages.context import Context
from agfsync.store import Run

pytestmark = pytest.mark.slow

KEY = "sk-planted-3b9d5c77aa21"
Told = Callable[[], list[str]]


@pytest.fixture
def told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Told:
    """All that was written to files, to the terminal and to any logger, byte for byte."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)

    def everything() -> list[str]:
        files = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
        return [*files, *capfd.readouterr(), caplog.text]

    return everything


@pytest.fixture
def asking(make_recipe: Any) -> Callable[..., Recipe]:
    """A recipe whose captions, questions and answers come from one server."""

    def make(server: FakeServer, **changes: Any) -> Recipe:
        told = {"base_url": server.url, "timeout": 0.5, "concurrency": 4, "retries": 4} | changes
        writer = {"writer": {"type": "openai", "path": "fake", **told}}
        judge = {"type": "vqa-openai", "path": "fake", "server": told}
        return make_recipe(
            captions={**writer, "count": 14, "held_out": 2},
            questions={**writer, "rounds": 1},
            candidates={"per_caption": 2},
            scorers={"red": {"type": "double", "path": "none"}, "vqa": judge},
            failure_budget=1.0,
        )

    return make


def run(folder: Path, recipe: Recipe) -> int:
    file = folder / "a recipe.yaml"
    file.write_text(dump(recipe))
    return cli.main(["run", str(file), "--out", str(folder / "run"), "--until", "pairs", "--debug"])


def replies(server: FakeServer) -> Callable[[Mapping[str, Any]], Reply]:
    """Good ones, but that texts hold the key, as it is and with JSON's escapes; every fifth request fails with it."""

    def answer(body: Mapping[str, Any]) -> Reply:
        if len(server.bodies) % 5 == 0:
            said = {"message": f"no: Authorization: Bearer {KEY}", "headers": {"authorization": f"Bearer {KEY}"}}
            return (429, 500, 503)[len(server.bodies) // 5 % 3], {"error": said}
        if isinstance(body["messages"][-1]["content"], list):
            return f"Yes, {KEY}."
        text = json.dumps(good(body, server.random))
        escaped = "".join(f"\\u{ord(character):04x}" for character in KEY)
        place = text.index(" while ") if " while " in text else text.index('": "') + 4
        return f"{text[:place]} {KEY} {escaped} {text[place:]}"

    return answer


def test_no_file_line_or_log_of_a_run_holds_the_key(tmp_path: Path, asking: Callable[..., Recipe], told: Told) -> None:
    with FakeServer() as server:
        server.answer = replies(server)
        assert run(tmp_path, asking(server)) == 0
    with Run.open(tmp_path / "run", writing=True) as opened:
        report.run(Context(opened, pipeline.read_recipe(opened), SilentProgress()))
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert {"spending.json", "recipe.yaml", "report.html", "run.db", "part-000000.parquet"} <= names
    with Run.open(tmp_path / "run") as opened:
        rows = [row["text"] for stage in ("captions", "questions") for row in opened.rows(stage, ["text"])]
    assert any("[key] [key]" in text for text in rows)
    everything = told()
    assert sum(map(len, everything)) > 100_000
    assert not [text for text in everything if KEY in text]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503, 200])
def test_no_traceback_of_a_run_that_failed_holds_the_key(
    tmp_path: Path, asking: Callable[..., Recipe], told: Told, status: int
) -> None:
    body = {
        "error": {"message": f"Incorrect API key provided: {KEY}", "param": KEY, "code": f"Bearer {KEY}"},
        "id": KEY,
    }
    with FakeServer(answer=lambda _: (status, body)) as server:
        assert run(tmp_path, asking(server, retries=0)) == cli.USAGE
    everything = told()
    assert any("Traceback" in text for text in everything)
    assert not [text for text in everything if KEY in text]


def test_no_error_carries_the_key_in_what_it_is_made_of(
    tmp_path: Path, asking: Callable[..., Recipe], told: Told
) -> None:
    """Not even where a program prints the local variables of the frames that an error went through but ours."""
    with FakeServer(answer=lambda _: (401, {"error": {"message": f"what is {KEY}?"}})) as server:
        pipeline.prepare(tmp_path / "run", asking(server, retries=0))
        with pytest.raises(Exception) as raised:
            pipeline.run(tmp_path / "run", until="captions")
    chain, failure = [], raised.value
    while failure is not None:
        chain += [repr(failure), str(failure.args), *traceback.format_exception(failure)]
        failure = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    assert not [text for text in chain if KEY in text]


def test_a_key_in_a_recipe_is_refused_without_saying_it(tmp_path: Path, told: Told) -> None:
    for place in ("captions.writer.base_url", "questions.writer.base_url", "scorers.vqa.server.base_url"):
        for url in (f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}"):
            arguments = ["run", "shapes", "--out", str(tmp_path / "run"), "--set", f"{place}={url}"]
            assert cli.main(arguments) == cli.USAGE
    assert not [text for text in told() if KEY in text]
