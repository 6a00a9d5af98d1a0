"""`agfsync judge`: accuracies on pair sets and runs, what is left out, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agfsync import pipeline
from agfsync.cli import main
from agfsync.commands.judge import format_judged, judge_pair_set, read_scorers
from agfsync.engine.progress import SilentProgress
from agfsync.errors import FormatError, RecipeError
from agfsync.recipe import ScorerSettings, load_recipe
from agfsync.recipe.types import find_settings

RED = find_settings("scorers", "double").model_validate({"type": "double", "path": "none"})
PICKY = find_settings("scorers", "double").model_validate({"type": "double", "path": "picky"})
Scorers = dict[str, ScorerSettings]


def judge(path: Path, scorers: Scorers, **more: Any) -> Any:
    return judge_pair_set(path, scorers, SilentProgress(), **more)


def scorers(**named: Any) -> Scorers:
    return named


def test_pairs_are_counted_by_hand(pair_set: Callable[..., Path]) -> None:
    # The red channel decides: right, right, wrong, equal; the last pair's images are one.
    folder = pair_set(
        ("a", "#ff0000", "#000000"),
        ("a", "#800000", "#400000"),
        ("b", "#100000", "#200000"),
        ("c", "#300000", "#300001"),
        ("d", "#300000", "#300000"),
    )
    found = judge(folder, scorers(red=RED, picky=PICKY))
    red, picky = found.table[""]["red"], found.table[""]["picky"]
    assert (red["accuracy"], red["by_prompt"]) == (2.5 / 4, (1 + 0 + 0.5) / 3)
    assert (red["pairs"], red["prompts"], red["unscored"]) == (4, 3, 0)
    # The darkest image has no value, so that pair is left out; on the three that both have, they agree.
    assert (picky["pairs"], picky["unscored"], picky["accuracy"]) == (3, 1, 0.5)
    assert picky["difference"] == 0 and found.reasons == {"red": {}, "picky": {"too dark": 1}}
    assert found.plain()["left_out"] == {"winner and loser are the same image": 1}
    lines = format_judged(found).splitlines()
    assert lines[0].endswith("label ties are left out (0), equal values count one half; 95 % over prompts")
    assert lines[1] == "red            62.5 %, by prompt 50.0 %, 4 pairs of 3 prompts"
    assert "1 without a value; the first is ahead by +0.0" in lines[2]


def test_a_limit_takes_the_first_pairs(pair_set: Callable[..., Path], loaded: list[str]) -> None:
    folder = pair_set(("a", "#ff0000", "#000000"), ("b", "#100000", "#200000"))
    assert judge(folder, scorers(red=RED), limit=1).table[""]["red"]["accuracy"] == 1
    assert loaded == ["none"]


def test_a_ranked_file_without_its_images_says_what_it_holds(tmp_path: Path) -> None:
    groups = [{"id": "1", "prompt": "a cat", "generations": ["1.png", "2.png", "3.png"], "ranking": [1, 2, 2]}]
    (tmp_path / "test.json").write_text(json.dumps(groups))
    with pytest.raises(FormatError) as raised:
        judge(tmp_path / "test.json", scorers(red=RED))
    assert "no pair can be judged: missing image: No such file or directory 2" in str(raised.value)
    assert "tie 1" in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture
def run_folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, make_recipe: Any) -> Path:
    """The test's own copy of a run with a reward model, which is made once."""
    made = tmp_path_factory.getbasetemp() / "with-reward-model"
    if not made.exists():
        _make_run(made, make_recipe)
    return Path(shutil.copytree(made, tmp_path / "run"))


def _make_run(path: Path, make_recipe: Any) -> None:
    network = {"type": "clip-head", "path": "embedded:clip", "hidden": [8, 4], "frozen": 1.0, "device": "cpu"}
    section = {"method": {"type": "bradley-terry", "network": network}, "steps": 2, "batch": 6, "precision": "fp32"}
    recipe = make_recipe(
        {"vp": {"type": "vp-score", "path": "run:reward", "device": "cpu", "dtype": "fp32"}},
        captions={"writer": "double", "count": 24, "held_out": 5},
        pairs={"choose": {"type": "every", "weights": {"red": 1.0, "vqa": 0.5}}},
        reward=section | {"validation": 0.25, "test": 0.25},
        training={"method": {"type": "none"}},
    )
    pipeline.prepare(path, recipe)
    pipeline.run(path, until="reward")


def test_the_test_pairs_of_a_run_are_judged_as_its_stage_does(run_folder: Path) -> None:
    found = judge(run_folder, read_scorers(run_folder, [], None), split="test").table[""]
    (noted,) = (s.finished.notes for s in pipeline.read_status(run_folder) if s.name == "reward" and s.finished)
    table = noted["accuracy"][""]
    for name, other in (("red", "red"), ("vqa", "vqa"), ("vp", "reward model")):
        for what in ("accuracy", "by_prompt", "pairs", "prompts"):
            assert found[name][what] == pytest.approx(table[other][what])


def test_a_moved_run_keeps_its_reward_model(run_folder: Path, tmp_path: Path) -> None:
    before = judge(run_folder, read_scorers(run_folder, [], None), split="test").table
    shutil.move(run_folder, tmp_path / "moved")
    assert judge(tmp_path / "moved", read_scorers(tmp_path / "moved", [], None), split="test").table == before


def test_a_run_has_the_splits_of_its_reward_model(run_folder: Path) -> None:
    counts = [judge(run_folder, scorers(red=RED), split=s).table[""]["red"]["pairs"] for s in ("test", "train", "")]
    validation = judge(run_folder, scorers(red=RED), split="validation").table[""]["red"]["pairs"]
    assert counts[0] + counts[1] + validation == counts[2]
    with pytest.raises(
        FormatError, match="has no split 'dev': a run with a reward model has train, .*; without --split all"
    ):
        judge(run_folder, scorers(red=RED), split="dev")


def test_scorers_are_read_from_the_command_line_and_from_recipes(tmp_path: Path) -> None:
    found = read_scorers(tmp_path, ["mine=clip:embedded:clip", "oracle=shapes-oracle"], None)
    assert [(name, each.type, each.path) for name, each in found.items()] == [
        ("mine", "clip", "embedded:clip"),
        ("oracle", "shapes-oracle", ""),
    ]
    assert list(read_scorers(tmp_path, [], "shapes")) == ["vqa", "clip", "aesthetic", "oracle"]
    assert list(read_scorers(tmp_path, ["mine=clip:x"], "shapes"))[-1] == "mine"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ([], "name a scorer, as --scorer"),
        (["clip"], "--scorer clip: write it as NAME=TYPE:PATH"),
        (["a=clip:"], "--scorer a=clip:: write it as NAME=TYPE:PATH"),
        (["a=clop:x"], "no scorer is called 'clop': did you mean 'clip'?"),
        (["a=clip"], "--scorer a=clip: Field required; give it in a --recipe"),
        (["vp=vp-score:run:reward"], "scorers.vp is the reward model of a run, and"),
    ],
)
def test_a_wrong_scorer_is_refused_in_a_line(named: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        read_scorers(tmp_path, named, None)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_the_command_prints_lines_or_json(pair_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = pair_set(("a", "#ff0000", "#000000"), ("b", "#800000", "#400000"))
    assert main(["judge", str(folder), "--scorer", "red=double:none"]) == 0
    assert "red            100.0 %, by prompt 100.0 %, 2 pairs of 2 prompts" in capsys.readouterr().out
    assert main(["judge", str(folder), "--scorer", "red=double:none", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["rule"] == "half" and plain["accuracy"][""]["red"]["accuracy"] == 1
    assert main(["judge", str(folder), "--scorer", "red"]) == 2


def test_status_shows_the_accuracies(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run_folder)]) == 0
    out = capsys.readouterr().out
    assert "reward model" in out and "pairs of" in out
    assert load_recipe(run_folder / "recipe.yaml").reward is not None
