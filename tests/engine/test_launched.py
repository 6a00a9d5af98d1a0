"""Training in two real processes on the CPU, which communicate through gloo; by `accelerate launch` and without.

On a machine with several accelerators `--num_processes` is enough; elsewhere the launcher needs `--multi_gpu`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from diffusers import StableDiffusionPipeline
from launching import ForkedPair

from agfsync import pipeline
from agfsync.recipe import Recipe, check_recipe, dump_recipe

pytestmark = pytest.mark.long

TESTS = Path(__file__).parents[1]
SETTINGS = {"steps": 8, "batch": 7, "learning_rate": 1e-3, "checkpoint_every": 2, "precision": "fp32"}
LAUNCH = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCH += ["--dynamo_backend", "no", "--main_process_port", "0"]
SECONDS = 30
"""in which the others must have ended; the launcher kills what doesn't stop after as many"""

Make = Callable[..., Recipe]
Launched = subprocess.Popen[str] | ForkedPair


@pytest.fixture(scope="module")
def make(tiny_generator: Path) -> Make:
    """A recipe with a tiny Stable Diffusion; the arguments are the training's."""

    def recipe(method: Mapping[str, Any] | None = None, **changes: Any) -> Recipe:
        generator = {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu", "sampling": {"steps": 2}}
        return check_recipe(
            {
                "captions": {"writer": "double", "count": 12, "held_out": 2},
                "questions": {"writer": "double", "rounds": 2},
                "model": generator,
                "candidates": {"per_caption": 3},
                "scorers": {"red": {"type": "double", "path": "none"}},
                "pairs": {"choose": {"weights": {"red": 1.0}}},
                "training": SETTINGS | {"method": {"beta": 500.0} | dict(method or {})} | changes,
                "evaluation": {"resamples": 50},
            },
            "launched",
        )

    return recipe


@pytest.fixture(scope="module")
def base(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose pairs are done."""
    path = tmp_path_factory.mktemp("launched") / "paired"
    pipeline.prepare(path, make())
    pipeline.run(path, until="pairs")
    return path


@pytest.fixture
def paired(base: Path, tmp_path: Path) -> Callable[[str, Recipe], Path]:
    """Copies it to a run of that name, which follows the recipe from now on."""

    def run(name: str, recipe: Recipe) -> Path:
        path = tmp_path / name
        shutil.copytree(base, path)
        pipeline.prepare(path, recipe, update=True)
        return path

    return run


def accelerate_launch(*arguments: str | Path) -> "subprocess.Popen[str]":
    """`accelerate launch` of two processes that do this command, with a group of their own."""
    source = os.pathsep.join([str(TESTS / "plugins"), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "-m", "agfsync", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ForkedPair]:
    """Start two processes of a command, without a launcher."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda *arguments: ForkedPair(tmp_path, [str(each) for each in arguments])


def finish(process: Launched) -> tuple[str, str]:
    """What a command that must succeed prints, on both streams."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out, error


def workers(process: Launched) -> dict[str, psutil.Process]:
    """The launched processes by their numbers."""
    if isinstance(process, ForkedPair):
        return {rank: psutil.Process(number) for rank, number in process.workers().items()}
    children = psutil.Process(process.pid).children(recursive=True)
    found = {child.environ().get("RANK"): child for child in children}
    return {rank: child for rank, child in found.items() if rank is not None}


def wait_for_step(process: Launched, run: Path, step: int) -> None:
    while len(lines(run)) < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def lines(run: Path) -> list[dict[str, float]]:
    log = run / "training" / "metrics.jsonl"
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")] if log.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in whole]


def differences(one: Path, other: Path, key: str = "loss") -> list[float]:
    """Of a figure, step by step."""
    assert len(lines(one)) == len(lines(other)) == SETTINGS["steps"]
    return [abs(a[key] - b[key]) for a, b in zip(lines(one), lines(other), strict=True)]


def test_two_processes_learn_what_one_does(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    one, two = paired("one", make()), paired("two", make())
    pipeline.run_stage(one, "training")
    out, _ = finish(launch("training", two))
    assert max(differences(one, two)) <= 1e-4
    assert out.count("training") == 1, "only the first process tells"
    files = [sorted(path.relative_to(run).as_posix() for path in (run / "model").rglob("*")) for run in (one, two)]
    assert files[0] == files[1]
    StableDiffusionPipeline.from_pretrained(two / "model", use_safetensors=True)


def test_and_so_they_do_where_the_memory_of_one_is_too_small(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    lora = {"rank": 2}
    one, two = paired("one", make(lora=lora)), paired("two", make({"type": "narrow"}, lora=lora))
    pipeline.run_stage(one, "training")
    _, error = finish(launch("training", two))
    assert error.count("a step doesn't fit into memory: from step 1 on it has 4 parts") == 1
    assert max(differences(one, two)) <= 1e-4


def test_a_whole_run_is_done_by_the_first_and_trained_by_both(make: Make, tmp_path: Path) -> None:
    file, run = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(dump_recipe(make().with_({"rounds": {"count": 2}})))
    out, error = finish(accelerate_launch("run", file, "--out", run))
    for each in (run, run / "rounds" / "2"):
        assert {standing.state for standing in pipeline.read_status(each)} == {"done"}
    assert error.count("training: by 2 processes") == 2
    assert [line.split()[0] for line in out.splitlines()].count("captions") == out.count("report: ") == 1


def test_killed_in_the_middle_and_resumed_it_is_the_same_curve(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    """Here even that of one process to the last bit, which does in two parts what the two do in one each."""
    recipe = make(steps=40, accumulate=2, ema=0.9, caption_dropout=0.3)
    whole, cut = paired("whole", recipe), paired("cut", recipe)
    pipeline.run_stage(whole, "training")
    process = launch("training", cut)
    wait_for_step(process, cut, 3)
    for worker in workers(process).values():
        worker.kill()
    process.communicate(timeout=SECONDS)
    assert len(lines(cut)) < recipe.training.steps
    finish(launch("training", cut))
    assert lines(cut) == lines(whole)
    weights = [(run / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for run in (whole, cut)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("rank", "by_launcher"), [("0", False), ("1", False), ("1", True)])
def test_where_one_process_is_killed_the_other_ends_too(
    paired: Callable[[str, Recipe], Path],
    make: Make,
    launch: Callable[..., ForkedPair],
    rank: str,
    by_launcher: bool,
) -> None:
    run = paired("run", make(steps=2000))
    process: Launched = accelerate_launch("training", run) if by_launcher else launch("training", run)
    wait_for_step(process, run, 2)
    both = workers(process)
    assert both.keys() == {"0", "1"}
    both[rank].kill()
    _, alive = psutil.wait_procs(both.values(), timeout=SECONDS / 3)
    assert alive == []
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0


def test_a_process_that_fails_says_why_and_the_first_how_to_go_on(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    run = paired("run", make({"type": "failing"}, steps=2000))
    begun = time.monotonic()
    process = launch("training", run)
    _, error = process.communicate(timeout=300)
    assert process.returncode != 0 and len(lines(run)) == 3
    assert time.monotonic() - begun < 4 * SECONDS
    assert "process 1: error: unexpected RuntimeError: the card fell off the bus" in error
    assert "type the same command to go on" in error


def test_two_processes_that_share_the_network_learn_what_one_does(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    one, two = (paired(name, make(batch=8, fsdp=fsdp)) for name, fsdp in (("one", False), ("two", True)))
    pipeline.run_stage(one, "training")
    finish(launch("training", two))
    assert max(differences(one, two)) <= 1e-4
    StableDiffusionPipeline.from_pretrained(two / "model", use_safetensors=True)


def test_rounds_are_trained_in_shards_too(make: Make, tmp_path: Path, launch: Callable[..., ForkedPair]) -> None:
    file, run = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(dump_recipe(make(batch=8, fsdp=True).with_({"rounds": {"count": 2}})))
    finish(launch("run", file, "--out", run))
    for each in (run, run / "rounds" / "2"):
        assert {standing.state for standing in pipeline.read_status(each)} == {"done"}


def test_a_process_that_fails_in_shards_says_why_and_the_first_how_to_go_on(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    run = paired("run", make({"type": "failing"}, steps=2000, batch=8, fsdp=True))
    _, error = launch("training", run).communicate(timeout=300)
    assert "process 1: error: unexpected RuntimeError: the card fell off the bus" in error
    assert error.count("type the same command to go on") == 1 and len(lines(run)) == 3


def test_shards_need_as_many_pairs_in_each_process(
    paired: Callable[[str, Recipe], Path], make: Make, launch: Callable[..., ForkedPair]
) -> None:
    process = launch("training", paired("run", make(fsdp=True)))
    _, error = process.communicate(timeout=300)
    assert process.returncode != 0 and "make training.batch 7 a multiple of 2" in error


@pytest.mark.parametrize(
    ("number", "changes"),
    [(signal.SIGINT, {}), (signal.SIGTERM, {}), (signal.SIGTERM, {"batch": 8, "fsdp": True})],
    ids=["interrupted", "terminated", "in-shards"],
)
def test_stopped_it_says_so_in_one_line(
    paired: Callable[[str, Recipe], Path],
    make: Make,
    launch: Callable[..., ForkedPair],
    number: signal.Signals,
    changes: dict[str, Any],
) -> None:
    run = paired("run", make(steps=2000, **changes))
    process: Launched = accelerate_launch("training", run) if number == signal.SIGINT else launch("training", run)
    wait_for_step(process, run, 2)
    both = workers(process)
    # As a terminal does, or a machine that is taken away: to all of them.
    if isinstance(process, ForkedPair):
        for worker in both.values():
            worker.send_signal(number)
    else:
        os.killpg(process.pid, number)
    _, error = process.communicate(timeout=SECONDS)
    _, alive = psutil.wait_procs(both.values(), timeout=1)
    assert alive == []
    # The rest is the launcher's own.
    ours = error.split("training: by 2 processes")[1]
    assert ours.count("stopped; type the same command to go on") == 1
    assert "error:" not in ours and "KeyboardInterrupt" not in ours
