import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from agfsync import cli, pipeline
from agfsync.commands.status import format_finding
from agfsync.recipe import dump_recipe, list_shipped
from agfsync.store.manifest import Finished

HEAVY = ("torch", "transformers", "diffusers")


@pytest.fixture
def file(tmp_path: Path, make_recipe: Any) -> Path:
    path = tmp_path / "quick.yaml"
    path.write_text(dump_recipe(make_recipe()))
    return path


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from agfsync.cli import main; code = main(['--help']);"
        f"sys.exit(code or bool(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(verb in done.stdout for verb in ("run", "status", "shapes", *pipeline.NAMES))


def test_torch_and_transformers_are_told_to_be_quiet_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"TRANSFORMERS_VERBOSITY": "info"})
    cli.main(["--version"])
    assert os.environ == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRANSFORMERS_VERBOSITY": "info",
        "HF_HUB_VERBOSITY": "error",
    }


def test_without_a_command_it_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Usage: agfsync" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("agfsync 0.")


def test_a_run_then_its_status_then_a_verb(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(file.parent / "run")
    assert cli.main(["run", str(file), "--out", out, "--until", "scores"]) == 0
    assert "scores: red, vqa: 96 of 96 scores" in capsys.readouterr().err
    assert cli.main(["pairs", out]) == 0
    assert cli.main(["status", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-8:]] == [
        name for name in pipeline.NAMES if name not in ("reward", "controls")
    ]
    assert lines[-4].startswith("pairs       done         12 rows, ")
    assert lines[-1] == "report      to do"


def test_what_the_evaluation_found_is_told_as_soon_as_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"prompts": 40, "base": 61.23, "aligned": 64.78, "difference": 3.55, "low": -0.24, "high": 7.31}
    figures |= {"win_rate": 0.55, "win_low": 0.44, "win_high": 0.655, "ties": 0.58}
    finished = Finished("digest", "mark", 61.0, 5, 0, {"judges": {"vqa": figures}}, {}, "2025-01-01T00:00:00+00:00")
    states: list[Literal["done", "out of date"]] = ["done", "out of date"]
    for state in states:
        standing = pipeline.StageStatus("evaluation", state, 5, finished)
        monkeypatch.setattr(pipeline, "read_status", lambda path, standing=standing: [standing])
        monkeypatch.setattr(pipeline, "read_headline", lambda path: "No clear change")
        assert cli.main(["status", str(tmp_path)]) == 0
    done, outdated = capsys.readouterr().out.split("evaluation ")[1:]
    assert done.splitlines()[1] == format_finding("vqa", figures)
    assert done.splitlines()[2] == "verdict: No clear change"
    assert "vqa" not in outdated and "verdict" not in outdated


def test_a_finding_has_its_intervals_or_says_that_the_captions_are_too_few() -> None:
    figures = {"prompts": 40, "base": 61.23, "aligned": 64.78, "difference": 3.55, "low": -0.24, "high": 7.31}
    figures |= {"win_rate": 0.55, "win_low": 0.44, "win_high": 0.655, "ties": 0.58}
    line = "vqa         61.2 -> 64.8: +3.5 (-0.2 to +7.3), win rate 55 % (44 to 66), ties 58 %"
    assert format_finding("vqa", figures) == line
    few = format_finding("vqa", figures | {"prompts": 8})
    assert few == f"{line}; too few captions to tell (8 of 20)"
    none = format_finding("vqa", figures | {"prompts": 1, "low": None, "high": None})
    assert none.startswith("vqa         61.2 -> 64.8: +3.5, win rate") and none.endswith("(1 of 20)")


def test_the_report_is_pointed_at_when_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "read_status", lambda path: [pipeline.StageStatus("evaluation", "to do", 0, None)])
    (tmp_path / "report.html").touch()
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"


def test_a_run_is_exported_and_what_came_out_inspected(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(file.parent / "run"), str(file.parent / "out")
    assert cli.main(["run", str(file), "--out", run, "--until", "pairs"]) == 0
    assert cli.main(["export", run, "--format", "binarized", "--out", out]) == 0
    assert re.search(rf"\d+ pairs, 0 ties: {out}\n$", capsys.readouterr().out)
    assert cli.main(["inspect", out]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{out}: binarized preferences" and told[1].startswith("captions ")
    assert any(re.fullmatch(r"  animals: pairs \d+, captions \d+", line) for line in told)
    assert cli.main(["inspect", run, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["path"], counts["captions"]) == (run, 17)


def test_pickled_weights_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "head.pth", tmp_path / "head.safetensors"
    torch.save({"weight": torch.ones(1, 3), "bias": torch.zeros(1)}, file)
    assert cli.main(["convert", str(file), str(out)]) == 0
    assert re.fullmatch(rf"{out}: 2 tensors, float32, \d+ bytes\n", capsys.readouterr().out)
    assert cli.main(["convert", str(file), str(out)]) == 2
    assert f"error: {out} exists already: choose another name\n" == capsys.readouterr().err


def test_shipped_recipes_are_listed_and_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["recipes"]) == 0
    assert all(len(line) <= 60 for line in capsys.readouterr().out.splitlines())
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_shipped()
    assert all(20 < len(line) < 120 for line in lines)
    assert any(" ".join(line.split()).startswith("sd15-lora AGFSync on Stable Diffusion 1.5, as") for line in lines)
    for name in list_shipped():
        assert cli.main(["recipes", "show", name]) == 0
        shown = capsys.readouterr().out
        assert shown == (files("agfsync") / "recipe" / "shipped" / f"{name}.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(shown)["name"] == name


def test_the_runs_folder_is_named_by_the_recipe(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert cli.main(["run", str(file), "--until", "captions"]) == 0
    assert (file.parent / "runs" / "quick" / "run.db").exists()


def test_what_is_left_out_is_told_with_its_reason_and_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"prompt,category\n{split},a\n,a\n")
    assert cli.main(["inspect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "captions    1",
        "left out: of the split 'test': 'train' is taken 2 (test.csv)",
        "left out: no text under 'prompt' 1 (train.csv: line 3)",
        "  a: captions 1",
    ]
    assert cli.main(["inspect", str(tmp_path), "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"]["of the split 'train': 'test' is taken"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--bogus"], "No such option: --bogus"),
        (["nonsense"], "No such command 'nonsense'"),
        (["status"], "Missing argument 'RUN'"),
        (["status", "/nowhere"], "no run at /nowhere"),
        (["run", "nosuch"], "no recipe 'nosuch'"),
        (["run", "{file}", "--until", "drawing"], "no stage is called 'drawing'"),
        (["doctor", "{file}", "--card", "-3"], "see `agfsync doctor --help`"),
        (
            ["run", "{file}", "--set", "pairs.choose.wieghts.red=1"],
            "unknown key 'pairs.choose.wieghts': did you mean 'weights'?",
        ),
        (["run", "{file}", "--set", "captions.writer=nobody"], "no caption is called 'nobody'"),
        (["run", "{file}", "--set", "model.path=./nowhere"], "no model at './nowhere'"),
        (["run", "{file}", "--set", "model.path=embedded:nothing"], "no embedded model"),
        (["run", "{file}", "--set", "scorers.red.type=barrow"], "no scorer is called 'barrow'"),
        (["run", "{file}", "--set", "scorers.red.path=~/nowhere/to/be/found"], "no model at '~/nowhere"),
        (["run", "{file}", "--set", "captions.source=/nowhere.txt"], "/nowhere.txt: no such file or folder"),
        (
            ["run", "{file}", "--set", "pairs.source={file}"],
            "holds pairs in no known format: '.yaml' is no ending of a known format",
        ),
        (["inspect", "/nowhere"], "/nowhere: no such file or folder"),
        (["inspect", "{file}"], "holds captions or pairs in no known format"),
        (["export", "/nowhere", "--format", "binarized", "--out", "/nowhere/else"], "no run at /nowhere"),
        (["convert", "/nowhere.pth", "/tmp/nowhere.safetensors"], "/nowhere.pth: no such file"),
        (["convert", "{file}", "{file}"], "the new file's name must end in .safetensors"),
        (["recipes", "show", "sd51"], "no shipped recipe is called 'sd51': did you mean 'sd15'?"),
        (["recipes", "show"], "Missing argument 'NAME'"),
        (["recipes", "list"], "No such command 'list'"),
        (["export", "/nowhere", "--out", "/nowhere/else"], "Missing option '--format'"),
        (["run", "{file}", "--set", "training.method.type=dpp"], "no method is called 'dpp': did you mean 'dpo'?"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    out = ["--out", str(file.parent / "run")] if arguments[:2] == ["run", "{file}"] else []
    assert cli.main([argument.format(file=file) for argument in arguments] + out) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (file.parent / "run").exists()


def test_a_run_of_other_settings_needs_update(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(file), "--out", str(file.parent / "run"), "--until", "pairs"]
    assert cli.main(command) == 0
    other = [*command, "--set", "pairs.choose.weights.red=0.25"]
    assert cli.main(other) == 2
    assert "pairs.choose.weights.red 1.0 -> 0.25" in capsys.readouterr().err
    assert cli.main([*other, "--update"]) == 0
    assert "goes on with the new settings, from pairs" in capsys.readouterr().err


def test_a_runs_recipe_that_was_edited_into_something_else_is_told(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = file.parent / "run"
    assert cli.main(["run", str(file), "--out", str(run), "--until", "captions"]) == 0
    (run / "recipe.yaml").write_text("name: [unclosed")
    assert cli.main(["status", str(run)]) == 2
    assert f"error: {run / 'recipe.yaml'}: not YAML: " in capsys.readouterr().err


def test_a_folder_that_cant_be_entered_is_told(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/run")

    monkeypatch.setattr(pipeline, "prepare", forbidden)
    assert cli.main(["run", str(file)]) == 2
    assert "error: /elsewhere/run: writing isn't allowed" in capsys.readouterr().err


def test_what_nobody_expected_is_one_line_too(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of\nall things")

    monkeypatch.setattr(pipeline, "prepare", fail)
    assert cli.main(["run", str(file)]) == 1
    wanted = "error: unexpected ZeroDivisionError: of all things; run with --debug for the traceback\n"
    assert capsys.readouterr().err == wanted
    assert cli.main(["run", str(file), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.long
def test_control_c_says_how_to_go_on(file: Path, make_recipe: Any) -> None:
    file.write_text(dump_recipe(make_recipe(captions={"count": 2000})))
    source = os.pathsep.join([*sys.path])
    run = file.parent / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "agfsync", "run", str(file), "--out", str(run), "--until", "pairs"],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (run / "questions").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "stopped; type the same command to go on"
    assert "Traceback" not in error
