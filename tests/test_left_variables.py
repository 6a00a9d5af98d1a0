"""A launcher's variables that a job's surroundings have left in the environment, and launched processes that wait."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agfsync import cli, pipeline
from agfsync.engine import launcher
from agfsync.engine.launcher import SINGLE_PROCESS, Launch, read_launch
from agfsync.errors import PeerError
from agfsync.recipe import Recipe, dump_recipe

HERE = Path(__file__).parent
LEFT = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
QUIET = ["status", "verify", "inspect", "captions", "questions", "candidates", "scores", "pairs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("left")


@pytest.fixture
def trainable(make_recipe: Any, tiny_generator: Path) -> Recipe:
    """The quick recipe with a generator that can be trained."""
    generator = {"type": "stable-diffusion", "path": str(tiny_generator), "dtype": "fp32", "sampling": {"steps": 2}}
    recipe: Recipe = make_recipe(model=generator, candidates={"per_caption": 2})
    return recipe


@pytest.fixture
def paired(folder: Path, trainable: Recipe) -> tuple[Path, Path]:
    """A recipe, and its run whose pairs are done."""
    if not (folder / "run").exists():
        (folder / "quick.yaml").write_text(dump_recipe(trainable))
        pipeline.prepare(folder / "run", trainable)
        pipeline.run(folder / "run", until="pairs")
    return folder / "quick.yaml", folder / "run"


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the variables, of which some are given, and forgets any store."""

    def leave(**given: str) -> None:
        for name, value in (LEFT | given).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(launcher, "_CONNECTED", [])

    return leave


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def begin(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    source = os.pathsep.join([str(HERE / "plugins"), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    ours = LEFT | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "MASTER_PORT": free_port()}
    return subprocess.Popen(
        [sys.executable, "-m", "agfsync", *map(str, arguments)],
        env=os.environ | ours | environment,
        # A shell lets its background jobs ignore Ctrl-C, tests among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("rank", ["0", "1", "abc"])
@pytest.mark.parametrize("verb", QUIET)
def test_what_does_not_train_ignores_them(
    paired: tuple[Path, Path], left: Any, rank: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left(RANK=rank)
    assert cli.main([verb, str(paired[1])]) == 0
    assert "waiting" not in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1", "7"])
def test_so_do_a_run_that_stops_before_the_training_and_other_verbs(
    paired: tuple[Path, Path], left: Any, rank: str, tmp_path: Path
) -> None:
    left(RANK=rank)
    file, run = map(str, paired)
    assert cli.main(["run", file, "--out", run, "--until", "pairs"]) == 0
    assert cli.main(["export", run, "--format", "binarized", "--out", str(tmp_path / "out")]) == 0
    assert cli.main(["shapes", "--help"]) == 0
    assert cli.main(["run", file, "--out", str(tmp_path / "new"), "--until", "captions"]) == 0


@pytest.mark.long
@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_case_as_it_was_met(paired: tuple[Path, Path], rank: str) -> None:
    """pytorch/examples#458, in a process of its own; nobody listens at the port."""
    out, error = begin("status", paired[1], RANK=rank).communicate(timeout=60)
    assert [line.split()[0] for line in out.splitlines()] == [
        name for name in pipeline.NAMES if name not in ("controls", "reward")
    ] and error == ""


@pytest.mark.long
@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_says_so_and_can_be_stopped(paired: tuple[Path, Path], rank: str, number: signal.Signals) -> None:
    port = free_port()
    process = begin("training", paired[1], RANK=rank, MASTER_PORT=port)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert f"127.0.0.1:{port}, for up to 600 s (AGFSYNC_JOIN_TIMEOUT)" in line
    assert ("waiting for 1 of 2 processes" if rank == "0" else "process 1: waiting for the first process") in line
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (cli.STOPPED if rank == "0" else -number)
    assert error.splitlines() == (["stopped; type the same command to go on"] if rank == "0" else [])


STOPPED = """
import signal, sys
from agfsync.engine import launcher
launcher._POLL_SECONDS = 0.0
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
launcher.shared_store()
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    launcher.await_helpers(print)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_a_thread_that_asks_the_store_all_the_time_ends_before_python_does() -> None:
    """Else Python aborts (-6): the slower it exits, the likelier, such as with torchao imported."""
    environment = os.environ | LEFT | {"MASTER_PORT": free_port(), "PYTHONPATH": str(HERE.parent / "src")}
    done = subprocess.run([sys.executable, "-c", STOPPED], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("rank", "line"),
    [
        ("0", "of 3 processes, RANK 1, 2 didn't join at 127.0.0.1:{port} within 0.5 s"),
        ("1", "process 1 of 3 didn't reach the first process (RANK=0) at 127.0.0.1:{port} within 0.5 s"),
    ],
)
@pytest.mark.parametrize("verb", ["training", "run"])
def test_after_a_while_one_line_says_who_is_missing(
    paired: tuple[Path, Path], left: Any, rank: str, line: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    left(RANK=rank, WORLD_SIZE="3", MASTER_PORT=port, AGFSYNC_JOIN_TIMEOUT="0.5")
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        given = ["training", str(paired[1])] if verb == "training" else ["run", str(paired[0]), "--out", str(paired[1])]
        assert cli.main(given) == cli.USAGE
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(each, handler)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {line.format(port=port)}") and "unset RANK, WORLD_SIZE" in last


def test_a_launcher_that_is_gone_is_told_as_well(left: Any) -> None:
    left(MASTER_PORT=free_port(), TORCHELASTIC_USE_AGENT_STORE="True", AGFSYNC_JOIN_TIMEOUT="0.3")
    said: list[str] = []
    with pytest.raises(PeerError, match=r"didn't reach the launcher at .* within 0\.3 s \(Connection refused\)"):
        launcher.await_helpers(said.append)
    assert len(said) == 1
    with launcher.lead_helpers():
        pass


def test_a_port_that_is_taken_or_answers_in_another_tongue_holds_nobody_up(
    left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ATTEMPT_SECONDS", 0.3)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        left(MASTER_PORT=port, AGFSYNC_JOIN_TIMEOUT="0.3")
        with pytest.raises(PeerError, match=rf"can't meet at 127\.0\.0\.1:{port}: .*in use"):
            launcher.await_helpers(lambda _: None)
        left(RANK="1", MASTER_PORT=port, AGFSYNC_JOIN_TIMEOUT="0.3")
        with pytest.raises(PeerError, match="didn't reach the first process"):
            launcher.join_first(lambda _: None)


def test_nobody_waits_where_the_training_cannot_begin(
    left: Any, tmp_path: Path, trainable: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.prepare(tmp_path / "run", trainable)
    left()
    assert cli.main(["training", str(tmp_path / "run")]) == cli.USAGE
    assert "training needs captions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"RANK": "abc"}, "RANK=abc, which should be a whole number from 0 to 1"),
        ({"RANK": "2"}, "RANK=2, which should be a whole number from 0 to 1"),
        ({"RANK": "-1"}, "RANK=-1, which should be a whole number from 0 to 1"),
        ({"RANK": "1.0"}, "RANK=1.0, which should be"),
        ({"RANK": "²"}, "RANK=², which should be"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0, which should be a whole number from 1 to"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two, which should be"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE=" + "9" * 40 + ", which should be"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000, which should be a whole number from 1 to 65535"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT=0, which should be"),
        ({"MASTER_PORT": "tcp://10.0.0.1:80"}, "MASTER_PORT=tcp://10.0.0.1:80, which should be"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x, which should be"),
        ({"AGFSYNC_JOIN_TIMEOUT": "soon"}, "AGFSYNC_JOIN_TIMEOUT=soon, which should be a number of seconds above 0"),
        ({"AGFSYNC_JOIN_TIMEOUT": "-1"}, "AGFSYNC_JOIN_TIMEOUT=-1, which"),
        ({"AGFSYNC_JOIN_TIMEOUT": "nan"}, "AGFSYNC_JOIN_TIMEOUT=nan, which"),
    ],
)
@pytest.mark.parametrize("verb", ["training", "run"])
def test_values_that_no_launcher_sets_are_one_line_where_they_count(
    paired: tuple[Path, Path],
    left: Any,
    given: dict[str, str],
    line: str,
    verb: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left(**{"MASTER_PORT": free_port()} | given)
    arguments = ["training", str(paired[1])] if verb == "training" else ["run", str(paired[0]), "--out", str(paired[1])]
    assert cli.main(arguments) == cli.USAGE
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(f"error: the environment has {line}")


def test_a_place_is_read_from_all_four_variables_alone() -> None:
    assert read_launch(LEFT) == Launch(0, 2, "127.0.0.1", 29512)
    assert read_launch(LEFT | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).launcher_hosts
    for name in LEFT:
        assert read_launch(LEFT | {name: ""}) == SINGLE_PROCESS
    others = {"SLURM_PROCID": "3", "SLURM_NTASKS": "x", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert read_launch(others) == read_launch({}) == SINGLE_PROCESS


def test_a_store_that_is_gone_is_one_line(left: Any) -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Connection reset by peer\nException raised from recvBytes at a.cpp")

    left(AGFSYNC_JOIN_TIMEOUT="1")
    launcher._CONNECTED.append(Gone())
    for work in (
        lambda: launcher.send_order({}),
        lambda: launcher.meet_others(1),
        lambda: launcher.await_helpers(lambda _: None),
    ):
        with pytest.raises(PeerError, match="can't reach each other any more: Connection reset by peer$"):
            work()
