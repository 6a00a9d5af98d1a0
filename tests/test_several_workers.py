"""Candidates and scores by several workers, on this machine and on a real Ray cluster of two, are those of one process.

Whatever happens to the workers: they are killed again and again while they work.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import doubles
import pytest

from agfsync import pipeline
from agfsync.errors import ModelError
from agfsync.recipe import Recipe, check_recipe, dump_recipe
from agfsync.records import Candidate, Caption, Pair, Record, Score
from agfsync.store import Run

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE / "plugins"), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
ENGINES = {"processes": {"workers": 2}, "ray": {"type": "ray", "workers": 2}}
SLOW = {
    "captions": {"count": 100},
    "model": {"type": "double", "path": "slow"},
    "scorers": {name: {"type": "double", "path": "slow"} for name in ("red", "vqa")},
    "scores": {"batch": 3},
}
KILLS = 5

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which workers leave their numbers, once they have something to do."""
    folder = tmp_path_factory.mktemp("at_work")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", PATHS)
        environment.setenv(doubles.AT_WORK, str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(at_work: Path) -> Iterator[None]:
    """A Ray of two CPUs, for all tests here: the workers have the environment in which it is started."""
    ray = pytest.importorskip("ray", reason="Ray isn't installed: pip install 'agfsync[ray]'")
    # Ray gives its workers the lowest priority but four: beside other work they would wait for minutes.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the name is Ray's)
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, at_work: Path) -> dict[str, Any]:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return ENGINES[request.param]


def made(path: Path) -> dict[type[Record], list[Record]]:
    """What lies in the tables of the run at `path`, each row once and in order."""
    tables = {"candidates": Candidate, "scores": Score, "pairs": Pair}
    with Run.open(path) as run:
        return {kind: list(run.read(table, kind)) for table, kind in tables.items()}


def ran(path: Path, recipe: Recipe) -> dict[type[Record], list[Record]]:
    pipeline.prepare(path, recipe)
    pipeline.run(path, until="pairs")
    return made(path)


class Killer(Thread):
    """Kills a worker a moment after it has begun to work, again and again."""

    def __init__(self, at_work: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._ended, self._rng = at_work, Event(), random.Random(0)
        self.kills = 0

    def run(self) -> None:
        while self.kills < KILLS and not self._ended.wait(self._rng.uniform(0.7, 1.5)):
            for file in sorted(self._folder.iterdir(), key=lambda _: self._rng.random())[:1]:
                file.unlink()
                if int(file.name) != os.getpid():
                    self.kills += _killed(int(file.name))

    def __enter__(self) -> "Killer":
        for file in self._folder.iterdir():
            file.unlink()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def _killed(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_workers_that_are_killed_again_and_again_make_what_one_process_makes(
    tmp_path: Path, make_recipe: Any, engine: dict[str, Any], at_work: Path
) -> None:
    expected = ran(tmp_path / "here", make_recipe(**SLOW))
    with Killer(at_work) as killer:
        found = ran(tmp_path / "there", make_recipe(**SLOW, engine=engine))
    assert found == expected
    assert [len(rows) for rows in found.values()][:2] == [400, 800]
    assert killer.kills >= KILLS // 2
    here, there = (pipeline.read_status(tmp_path / name) for name in ("here", "there"))
    assert [s.finished and s.finished.mark for s in here] == [s.finished and s.finished.mark for s in there]
    with Run.open(tmp_path / "there", writing=True) as run:  # opening it sweeps out what was never entered
        parts = {receipt.path for receipt in run._manifest.list_parts()}
    assert {
        path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").glob("*/*.parquet*")
    } == parts


def test_a_caption_that_kills_its_workers_is_skipped(tmp_path: Path, make_recipe: Any, engine: dict[str, Any]) -> None:
    path = tmp_path / "run"
    pipeline.prepare(path, make_recipe(engine=engine))
    pipeline.run(path, until="questions")
    with Run.open(path) as run:
        text = next(c.text for c in run.read("captions", Caption) if c.split == "train")
    deadly = {"type": "double", "path": f"deadly:{text}"}
    pipeline.prepare(path, make_recipe(engine=engine, model=deadly, failure_budget=0.1), update=True)
    pipeline.run(path, until="candidates")
    with Run.open(path) as run:
        (skipped,) = run.list_skipped("candidates")
        assert skipped.reason.startswith("3 workers died of it (the last: ")
        assert len(list(run.read("candidates", Candidate))) == 11 * 4


def test_a_model_that_workers_can_not_load_is_told_as_it_is_here(
    tmp_path: Path, make_recipe: Any, engine: dict[str, Any]
) -> None:
    generator = {"type": "double", "path": "missing"}
    pipeline.prepare(tmp_path / "run", make_recipe(engine=engine, model=generator))
    with pytest.raises(ModelError, match="no model at 'missing'"):
        pipeline.run(tmp_path / "run", until="candidates")


def test_the_embedded_models_make_the_same_items_on_ray(tmp_path: Path, cluster: None) -> None:
    few = {
        "captions": {"count": 6, "held_out": 2},
        "model": {"device": "cpu", "sampling": {"steps": 2, "scheduler": "dpm++"}},
        "candidates": {"per_caption": 3},
        "scores": {"batch": 4},
    }
    expected = ran(tmp_path / "here", check_recipe(few, "few"))
    found = ran(tmp_path / "there", check_recipe(few | {"engine": "ray"}, "few"))
    for kind in (Candidate, Score):
        assert [row.key for row in found[kind]] == [row.key for row in expected[kind]]  # type: ignore[attr-defined]
    values = [[row.value for row in rows[Score]] for rows in (found, expected)]  # type: ignore[attr-defined]
    assert values[0] == pytest.approx(values[1], abs=0.5)


def test_ctrl_c_ends_with_one_line_and_keeps_what_is_there(
    tmp_path: Path, make_recipe: Any, engine: dict[str, Any], at_work: Path
) -> None:
    file, path = tmp_path / "slow.yaml", tmp_path / "run"
    many = SLOW | {"captions": {"count": 400}}
    file.write_text(dump_recipe(make_recipe(**many, engine=engine)))
    command = [sys.executable, "-m", "agfsync", "run", str(file), "--out", str(path), "--until", "candidates"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # as from a terminal: Ctrl-C reaches the whole group of processes
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell in the background ignores
    )
    try:
        until = time.monotonic() + 120
        while not list(path.glob("candidates/*.parquet")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped; type the same command to go on"
    assert "Traceback" not in out + err
    with Run.open(path, writing=True) as run:
        assert 0 < len(set(run.list_made("candidates"))) < 400


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_ctrl_c_while_workers_are_started_is_one_line_too(tmp_path: Path, make_recipe: Any, seconds: float) -> None:
    """Processes that import can't ignore Ctrl-C yet."""
    file = tmp_path / "slow.yaml"
    file.write_text(dump_recipe(make_recipe(**SLOW, engine={"type": "local", "workers": 2})))
    process = subprocess.Popen(
        [sys.executable, "-m", "agfsync", "run", str(file), "--out", str(tmp_path / "run"), "--until", "candidates"],
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    try:
        next(line for line in process.stderr if "loading in 2 workers" in line)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    finally:
        process.kill()
    assert process.wait() == 130 and rest == "stopped; type the same command to go on\n"
