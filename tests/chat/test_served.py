"""`transformers serve`, a real server, asked for captions, questions and answers: what it says ends in the right line.

It leaves out in silence what it doesn't know of a request: schemas and log-probabilities.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from PIL import Image
from tiny_language import save_onlooker, save_writer

from agfsync import cli
from agfsync.chat.meter import Meter
from agfsync.recipe import Server, dump_recipe
from agfsync.records import Caption, Question
from agfsync.scorers import Item, Measurement
from agfsync.scorers.vqa_openai import VqaOpenAI
from agfsync.stages.spending import ACCOUNT
from agfsync.store import Run

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow

STARTED = 240.0
"""seconds that the server may take, which imports torch and transformers"""
CAPTIONS = ("A red cat sleeps on a wooden chair.", "A red cat runs along a sandy beach.")
ASKED = {"question": "Is the cat red?", "answer": "yes", "element_type": "color", "element": "red", "flag": "1"}
Type = Callable[..., tuple[int, list[str], Path]]


def save_models(folder: Path) -> None:
    pieces = ['{"descriptions": [', f'"{CAPTIONS[0]}"', ", ", f'"{CAPTIONS[1]}"', "]}"]
    save_writer(folder / "captions", pieces)
    save_writer(folder / "fenced", ["```json\n", *pieces, "\n```"])
    save_writer(folder / "questions", [f'{{"questions": [{json.dumps({"question_id": "1"} | ASKED)}', "]}"])
    save_writer(folder / "prose", ["I would", " rather", " not", "."])
    save_writer(folder / "babble", ["lorem ", "ipsum ", "dolor "], endless=True)
    save_writer(folder / "unfinished", ['{"descriptions": [', '"lorem ', "ipsum ", "dolor "], endless=True)
    save_onlooker(folder / "sees", ["Yes"])
    save_onlooker(folder / "thinks", ["<think>", "No ", "or ", "yes ", "? "], endless=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address of the server, which takes a folder for a model's name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    options = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", start, *options], env=environment, stdout=log, stderr=log)
    try:
        save_models(folder)
        _await(f"http://127.0.0.1:{port}/health", server, folder / "log.txt")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def _await(health: str, server: subprocess.Popen[bytes], log: Path) -> None:
    straight, begun = build_opener(ProxyHandler({})), time.monotonic()
    while time.monotonic() - begun < STARTED:
        assert server.poll() is None, log.read_text()
        try:
            straight.open(health, timeout=5).close()
            return
        except URLError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def type_run(url: str, folder: Path, tmp_path: Path, make_recipe: Any, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type `agfsync run` with models of these names: its code, its lines, and the run folder."""

    def model(name: str, **more: Any) -> dict[str, Any]:
        return {"type": "openai", "path": str(folder / name), "base_url": url, "retries": 1, "concurrency": 2, **more}

    def run(captions: str = "", questions: str = "", judge: str = "", **more: Any) -> tuple[int, list[str], Path]:
        sections: dict[str, Any] = {"captions": {"count": 2, "held_out": 0}}
        if captions:
            sections["captions"] |= {"writer": model(captions, **more)}
        if questions:
            sections["questions"] = {"writer": model(questions, **more), "rounds": 1}
        if judge:
            server = {"base_url": url, "retries": 0, "concurrency": 2, **more}
            vqa = {"type": "vqa-openai", "path": str(folder / judge), "server": server}
            sections["scorers"] = {"red": {"type": "double", "path": "none"}, "vqa": vqa}
            sections["candidates"] = {"per_caption": 2}
        file = tmp_path / "served.yaml"
        file.write_text(dump_recipe(make_recipe(**sections)))
        until = "scores" if judge else "questions" if questions else "captions"
        code = cli.main(["run", str(file), "--out", str(tmp_path / "run"), "--until", until, "--update"])
        return code, capsys.readouterr().err.splitlines(), tmp_path / "run"

    return run


def spent(run: Path, name: str) -> tuple[int, int, int]:
    """The requests, and the tokens sent and received, that are entered."""
    entered = json.loads((run / "spending.json").read_text())[name]
    return tuple(int(entered[each]) for each in ("requests", "input_tokens", "output_tokens"))  # type: ignore[return-value]


def test_captions_and_questions_are_written_and_their_tokens_counted(type_run: Type) -> None:
    code, lines, run = type_run("captions", "questions")
    assert code == 0, lines
    with Run.open(run) as opened:
        assert sorted(each.text for each in opened.read("captions", Caption)) == sorted(CAPTIONS)
        assert [each.text for each in opened.read("questions", Question)] == [ASKED["question"]] * 2
    # Five tokens and the end of a reply to each of two categories; two and the end to each caption.
    assert (spent(run, "captions")[0], spent(run, "captions")[2]) == (2, 12)
    assert (spent(run, "questions")[0], spent(run, "questions")[2]) == (2, 6)
    assert spent(run, "captions")[1] > 100
    # All was as the schema has it: there is nothing to notice.
    assert not any("response_format" in line for line in lines)


def test_a_server_that_leaves_the_schema_out_in_silence_is_noticed_once(type_run: Type) -> None:
    code, lines, run = type_run("fenced")
    assert code == 0
    noticed = [line for line in lines if "takes response_format and doesn't hold" in line]
    assert len(noticed) == 1 and noticed[0].startswith("captions: 127.0.0.1:")
    with Run.open(run) as opened:
        finished = opened.find_finished("captions")
    assert finished is not None and "takes response_format" in finished.notes["server"]


def test_prose_is_cited_and_the_schema_that_was_left_out_named(type_run: Type) -> None:
    code, lines, _ = type_run("prose")
    assert code == cli.USAGE
    assert lines[-1].startswith("error: captions: writer 'openai' is stuck at 0 of the 1 captions of '")
    assert (
        'no JSON in the reply: it begins "I would rather not." (finish_reason stop); response_format was ignored'
        in lines[-1]
    )


@pytest.mark.parametrize(("model", "fault"), [("babble", "no JSON"), ("unfinished", "no whole item")])
def test_captions_cut_at_the_limit_say_so(type_run: Type, model: str, fault: str) -> None:
    code, lines, run = type_run(model, reply_tokens=20)
    assert code == cli.USAGE
    cut = f"{fault} in the reply: it was cut at captions.writer.reply_tokens = 20 (finish_reason length): raise that"
    assert "is stuck at 0 of the 1 captions" in lines[-1] and cut in lines[-1]
    assert "ran dry" not in lines[-1] and "ask for fewer" not in lines[-1]
    requests, _, received = spent(run, "captions")
    assert requests == 6 and received == 20 * requests  # three in vain, each repeated once


def test_questions_cut_at_the_limit_say_so_and_another_model_goes_on(type_run: Type) -> None:
    code, lines, run = type_run("captions", "babble", reply_tokens=20)
    assert code == cli.USAGE and "questions: 2 of 2 captions skipped" in lines[-1]
    assert "it was cut at questions.writer.reply_tokens = 20 (finish_reason length): raise that" in lines[-1]
    with Run.open(run) as opened:
        assert len(list(opened.read("captions", Caption))) == 2
    assert spent(run, "questions")[2] == 4 * 20
    code, lines, run = type_run("captions", "questions", reply_tokens=40)
    assert code == 0, lines
    assert spent(run, "captions")[0] == 2  # the captions are those of before


def test_answers_count_by_their_word_where_probabilities_are_left_out_in_silence(url: str, folder: Path) -> None:
    meter = Meter(section="scorers.vqa.server")
    server = Server(base_url=url, retries=0).model_dump(exclude=ACCOUNT)
    scorer = VqaOpenAI(path=str(folder / "sees"), server=server, meter=meter)
    questions = tuple(
        Question(str(n), "c", f"Is there a {n}?", answer, "star", "object") for n, answer in enumerate(("yes", "no"))
    )
    (found,) = scorer.score([Item("a star", questions, Image.new("RGB", (32, 24), "red"))])
    assert isinstance(found, Measurement)
    assert [answer.p_yes for answer in found.answers] == [1.0, 1.0] and found.value == 50.0
    assert (meter.spent.requests, meter.spent.output_tokens) == (2, 4)
    (remark,) = meter.remarks
    assert "takes logprobs and gives none: answers count by their word" in remark


def test_answers_cut_among_thoughts_say_so(type_run: Type) -> None:
    code, lines, _ = type_run(judge="thinks", reply_tokens=8)
    assert code == cli.USAGE and "scores: 4 of 4 images skipped: no vqa score" in lines[-1]
    says = (
        "neither yes nor no: it was cut at scorers.vqa.server.reply_tokens = 8 (finish_reason length) with all"
        " its text in content, as thoughts: raise that, or turn the model's thinking off"
    )
    assert says in lines[-1]
