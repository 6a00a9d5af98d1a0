"""Studies that run: shared work, failed arms, kills, two processes at once, and the page."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from agfsync import cli, pipeline
from agfsync.engine.progress import SilentProgress
from agfsync.errors import RunError
from agfsync.recipe import dump_recipe
from agfsync.store import Run
from agfsync.study.running import read_study, run_study
from agfsync.study.settings import load_study

ARMS = {
    "dpo": {},
    "lot": {"pairs.choose": {"type": "lot"}},
    "half": {"pairs.share": 0.5},
    "none": {"training.method": {"type": "none"}},
}
MEASURED = ("seconds", "memory")
"""Columns of the table that no two runs have alike."""


@pytest.fixture
def study_file(tmp_path: Path, tiny_generator: Path, make_recipe: Any) -> Path:
    model = {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu", "sampling": {"steps": 2}}
    training = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "method": {"beta": 500.0}}
    recipe = make_recipe(model=model, training=training, captions={"count": 4, "held_out": 8}, engine={"type": "local"})
    (tmp_path / "tiny.yaml").write_text(dump_recipe(recipe))
    study = {"base": "tiny.yaml", "seeds": {"training.seed": [0, 1]}, "against": "lot", "resamples": 50, "arms": ARMS}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return tmp_path / "mine.yaml"


def read_table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path / "table.parquet").drop_columns(MEASURED).to_pylist()
    return rows


@pytest.mark.long
def test_arms_draw_nothing_that_they_share_and_a_failed_arm_is_told(
    study_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agfsync.stages import training

    out, build = study_file.parent / "study", training._build_method

    def fail(recipe: Any) -> Any:
        if recipe.name == "half":
            raise ValueError("no such\nthing")
        return build(recipe)

    monkeypatch.setattr(training, "_build_method", fail)
    assert cli.main(["study", str(study_file), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "arm half, seed 0 failed: ValueError: no such thing" in said.err
    assert [line.split()[3].rstrip(":") for line in said.out.splitlines()[:7]] == [
        *["done"] * 4,
        *["failed"] * 2,
        "done",
    ]
    with Run.open(out / "base") as base, Run.open(out / "arms" / "dpo" / "seed-1") as arm:
        for table in ("captions", "candidates", "scores"):
            assert arm.list_made(table) == base.list_made(table)
        shared = set(base.list_made("evaluation_images"))
        assert len(set(arm.list_made("evaluation_images")) - shared) == len(shared) == 8
    rows = read_table(out)
    assert {(row["arm"], row["seeds"]) for row in rows if row["judge"] == "red"} == {
        ("base", 2),
        ("dpo", 2),
        ("lot", 2),
        ("none", 1),
    }
    (half,) = (row for row in rows if row["arm"] == "half")
    assert half["state"] == "seed 0, 1 failed: ValueError: no such thing" and half["judge"] == ""
    assert [row["gain"] for row in rows if row["arm"] == "none"] == [0.0, 0.0]
    page = (out / "study.html").read_text()
    assert "no such thing" in page and page.count('<img src="data:') >= 4 * 6 and "http" not in page
    monkeypatch.undo()
    assert cli.main(["study", str(study_file), "--out", str(out)]) == 0
    assert {row["state"] for row in read_table(out)} == {"done"}
    assert cli.main(["study", "table", str(out)]) == 0 and "| half | 2 |" in capsys.readouterr().out
    assert cli.main(["study", "table", str(out), "--format", "latex"]) == 0
    assert r"half & 2 &" in capsys.readouterr().out
    runs = [out / "base", *sorted((out / "arms").glob("*/seed-*"))]
    assert len(runs) == 8
    assert cli.main(["verify", str(out)]) == 0
    assert f"{sum(map(pipeline.verify, runs))} files match" in capsys.readouterr().out
    part = next((out / "arms" / "lot" / "seed-1" / "pairs").iterdir())
    part.write_bytes(part.read_bytes()[::-1])
    assert cli.main(["verify", str(out)]) == 2
    assert "lot/seed-1" in capsys.readouterr().err
    with pytest.raises(RunError, match="--update"):
        run_study(load_study(str(study_file), ["training.steps=3"]), out, SilentProgress())


def start(study_file: Path, out: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from agfsync.cli import main; sys.exit(main(sys.argv[1:]))"
    paths = [str(Path(__file__).parents[1] / "plugins"), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", code, "study", str(study_file), "--out", str(out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.long
def test_a_study_killed_at_random_ends_with_the_same_table_as_two_processes(study_file: Path) -> None:
    together, killed = study_file.parent / "together", study_file.parent / "killed"
    both = [start(study_file, together) for _ in range(2)]
    begun = time.monotonic()
    assert [each.wait() for each in both] == [0, 0], [each.stderr.read() for each in both if each.stderr]
    took, rng = time.monotonic() - begun, random.Random(0)
    for _ in range(3):
        child = start(study_file, killed)
        time.sleep(rng.uniform(0.3, 0.8) * took)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert start(study_file, killed).wait() == 0
    assert read_table(killed) == read_table(together)
    assert {row["state"] for row in read_table(killed)} == {"done"}


def test_other_folders_are_left_alone(tmp_path: Path, study_file: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(RunError, match="contains files that aren.t a study.s"):
        run_study(load_study(str(study_file)), tmp_path / "full", SilentProgress())
    with pytest.raises(RunError, match="no study at"):
        read_study(tmp_path)
