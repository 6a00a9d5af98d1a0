"""`agfsync compare`: two models of any kind, compared by an ordinary run that trains nothing."""

import shutil
from pathlib import Path

import pytest

import agfsync
from agfsync import catalog, cli, pipeline
from agfsync.commands.compare import plan_comparison, prepare_comparison
from agfsync.errors import AgfsyncError, RunError
from agfsync.models import LORA_FILE
from agfsync.models.artefact import ModelArtefact
from agfsync.recipe import Recipe
from agfsync.records import Candidate
from agfsync.store import Run

BASE = "embedded:generator"
FAST = ["model.sampling.steps=2", "engine=local", "captions.held_out=4", "evaluation.resamples=50"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained a LoRA for two steps on Shapes."""
    small = {
        "captions": {"count": 4, "held_out": 4},
        "candidates.per_caption": 2,
        "model.sampling": {"steps": 2, "guidance": 4.0, "scheduler": "dpm++"},
        # In bf16, which auto is on some processors, a LoRA in the weights differs visibly from one beside them.
        **dict.fromkeys(("model.dtype", "scorers.clip.dtype", "scorers.aesthetic.dtype"), "fp32"),
        "training": {"lora": {"rank": 2}, "steps": 2, "batch": 2, "learning_rate": 1e-2},
        "engine": "local",
    }
    return agfsync.run(
        Recipe.load("shapes").with_(small), tmp_path_factory.mktemp("compare") / "run", progress=False
    ).path


@pytest.fixture
def lora(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "model" / LORA_FILE, tmp_path / "mine.safetensors"))


def refuse(base: str | Path, other: str | Path, **settings: object) -> str:
    with pytest.raises(AgfsyncError) as told:
        plan_comparison(str(base), str(other), **settings)  # type: ignore[arg-type]
    return str(told.value)


def keys_of_base(path: Path) -> set[str]:
    with Run.open(path) as run:
        return {image.key for image in run.read("evaluation_images", Candidate) if image.generator == "base"}


@pytest.mark.parametrize(
    ("base", "other", "line"),
    [
        (BASE, "nowhere.safetensors", "no model at 'nowhere.safetensors': there is no such file; give a hub id"),
        (BASE, "./nowhere", "no model at './nowhere'"),
        (BASE, "embedded:nix", "no embedded model 'embedded:nix'"),
        (BASE, f"{BASE}+", "no model at '': there is no such file"),
        (BASE, BASE, "are the same model with the same settings: there is nothing to compare"),
    ],
)
def test_what_is_no_model_is_one_line(base: str, other: str, line: str) -> None:
    assert line in refuse(base, other)


def test_several_loras_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    assert "a.safetensors, b.safetensors" in refuse(BASE, tmp_path)


def test_wrong_sets_and_judges_are_one_line(lora: Path) -> None:
    assert "--set x=3: there is no such file of prompts" in refuse(BASE, lora, sets=["x=3"])
    assert "settings are given by --set-option" in refuse(BASE, lora, sets=["x=3"])
    assert "--judge nobody: there are vqa, clip" in refuse(BASE, lora, judges=["nobody"])
    assert "unknown key 'evaluation.bach'" in refuse(BASE, lora, overrides=["evaluation.bach=1"])


def test_files_of_one_name_are_sets_of_their_own(lora: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "held-out.txt").write_text("a kite\n")
    files = [str(tmp_path / folder / "held-out.txt") for folder in "ab"]
    sets = plan_comparison(BASE, str(lora), sets=["held-out", *files]).recipe.evaluation.sets
    assert {name: each.source for name, each in sets.items()} == {
        "held-out": None,
        "held-out-2": files[0],
        "held-out-3": files[1],
    }


def test_a_copy_is_the_same_model(lora: Path, tmp_path: Path) -> None:
    copy = shutil.copy(lora, tmp_path / "copy.safetensors")
    assert "are the same model" in refuse(f"{BASE}+{lora}", f"{BASE}+{copy}")


def test_a_lora_needs_a_base_that_it_fits(lora: Path, tiny_xl_generator: Path) -> None:
    assert f"{lora} is a LoRA, which needs a model" in refuse(lora, BASE)
    assert "is made for another model" in refuse(tiny_xl_generator, lora)
    plan = plan_comparison(BASE, f"{BASE}+{lora}")
    assert plan.recipe.given == plan_comparison(BASE, str(lora)).recipe.given.model_copy(  # type: ignore[union-attr]
        update={"names": ("generator", "generator+mine")}
    )


def test_models_of_different_types_draw_by_their_own_settings(tiny_generator: Path, tiny_xl_generator: Path) -> None:
    recipe = plan_comparison(str(tiny_generator), str(tiny_xl_generator), recipe="shapes").recipe
    assert recipe.given is not None
    assert (recipe.model.type, recipe.given.model.type) == ("stable-diffusion", "stable-diffusion-xl")
    assert (recipe.model.sampling.steps, recipe.given.model.sampling.steps) == (10, 50)
    both = plan_comparison(
        str(tiny_generator), str(tiny_xl_generator), recipe="shapes", overrides=["model.sampling.steps=3"]
    ).recipe
    assert both.given is not None and (both.model.sampling.steps, both.given.model.sampling.steps) == (3, 3)
    assert both.captions.count == 0 and both.model_names == {"base": "generator", "aligned": "xl"}


@pytest.mark.slow
def test_a_lora_is_compared_with_its_base_on_a_file_of_prompts(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a red heart\na blue star\ntwo green circles\n")
    options = [text for each in FAST for text in ("--set-option", each)]
    command = ["compare", BASE, str(lora), "--set", "mine.txt", "--judge", "clip", *options]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "verdict: Too few captions to tell (3 of 20)" in shown and "clip        " in shown
    run = agfsync.load_run(tmp_path / "runs" / "generator-vs-mine")
    assert [each.state for each in run.status] == ["done"] * 5 and len(run.captions) == 0
    assert {(row.set, row.judge) for row in run.evaluation} == {("mine", "clip")}
    page = run.report.read_text()
    assert "mine minus generator" in page and "generator → mine" in page
    for word in ("aligned", "held-out captions", "trained", "independent", "Pairs", "was selected"):
        assert word not in page.partition("<details>")[0], word
    # The other model opens like a trained one.
    assert run.model().draw(["a red heart"], seeds=[0])[0].size == (64, 64)
    assert cli.main(command) == 0  # nothing is left to do
    lora.write_bytes(Path(lora).read_bytes()[:-4] + b"\x00\x00\x00\x3c")
    assert cli.main(command) == cli.USAGE
    assert "--update goes on with the new ones" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_compared_on_its_own_captions_to_its_own_result(trained: Path, tmp_path: Path) -> None:
    plan = plan_comparison(BASE, str(trained))
    assert plan.shares == trained
    prepare_comparison(tmp_path / "out", plan)
    pipeline.run(tmp_path / "out")
    assert keys_of_base(tmp_path / "out") == keys_of_base(trained)
    ours, theirs = (
        [(c.caption_key, c.judge, c.element_type, c.base) for c in agfsync.load_run(path).evaluation]
        for path in (tmp_path / "out", trained)
    )
    assert ours == theirs
    for row, before in zip(
        agfsync.load_run(tmp_path / "out").evaluation, agfsync.load_run(trained).evaluation, strict=True
    ):
        # A LoRA that is added to the weights differs from one beside them in the last bits.
        assert row.judge in ("vqa", "oracle") or abs(row.aligned - before.aligned) < 0.5
    # The run's own scorers chose its pairs; the oracle didn't.
    given = plan.recipe.given
    assert given is not None and given.selected_on == ("vqa", "clip", "aesthetic")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<small>selected on</small>" in page and 'id="pairs"' not in page
    with pytest.raises(RunError, match="is a run of its own, which a comparison would overwrite"):
        prepare_comparison(trained, plan)


def test_a_runs_own_reward_model_judges_from_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    pipeline.prepare(run, Recipe.load("shapes-visionprefer").with_({"engine": "local"}))
    shutil.copytree(catalog.model_path(BASE), run / "model")
    ModelArtefact("pipeline", {"path": BASE}).save(run / "model")
    planned = plan_comparison(BASE, str(run)).recipe
    assert planned.reward is None
    assert planned.scorers["vp"].path == str(run / "reward")
