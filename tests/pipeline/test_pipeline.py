import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import doubles
import pytest
import yaml

from agfsync import pipeline
from agfsync.engine.progress import LogProgress, SilentProgress
from agfsync.errors import DamagedError, FormatError, ModelError, OutOfMemoryError, RecipeError, RunError, StoreError
from agfsync.recipe import Recipe
from agfsync.records import Candidate, Caption, Pair, Question
from agfsync.stages import VERSIONS
from agfsync.stages.context import EARLIER, digest_generator
from agfsync.store import Run
from agfsync.store.forks import fork_run


@pytest.fixture
def path(paired_run: Path) -> Path:
    return paired_run


class Told(SilentProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


PLANNED = [name for name in pipeline.NAMES if name not in ("controls", "reward")]
"""The stages of a recipe without controls and without a reward model."""


def states(path: Path) -> dict[str, str]:
    return {standing.name: standing.state for standing in pipeline.read_status(path)}


def marks(path: Path) -> list[str]:
    """What names what each stage has made."""
    with Run.open(path) as run:
        return [ended.mark for name in pipeline.NAMES if (ended := run.find_finished(name))]


def test_the_stages_are_those_of_the_recipe_in_its_order() -> None:
    shared = ("name", "seed", "failure_budget", "engine", "model", "scorers", "rounds", "start")
    assert list(pipeline.NAMES) == list(VERSIONS)
    assert [name for name in Recipe.model_fields if name not in shared] == [
        name for name in pipeline.NAMES if name != "controls"
    ]
    assert all(pipeline.NAMES.index(before) < index for index, s in enumerate(pipeline.STAGES) for before in s.after)


def test_a_run_goes_up_to_where_it_is_told(path: Path) -> None:
    assert states(path) == dict.fromkeys(PLANNED[:5], "done") | dict.fromkeys(PLANNED[5:], "to do")


def test_a_generator_that_cant_be_trained_is_told_before_anything_is_made(tmp_path: Path, make_recipe: Any) -> None:
    path = tmp_path / "run"
    pipeline.prepare(path, make_recipe(model={"type": "double", "path": "none"}))
    says = (
        "type double draws and is scored, but can't be trained: it has no .*network.*; `agfsync run ... --until pairs`"
    )
    for until in (None, "training", "report"):
        with pytest.raises(ModelError, match=says):
            pipeline.run(path, until=until)
    with pytest.raises(ModelError, match=says):
        pipeline.run_stage(path, "training")
    assert set(states(path).values()) == {"to do"}
    pipeline.run(path, until="questions")
    assert states(path)["questions"] == "done"


def test_what_is_done_is_not_done_again(path: Path, loaded: list[str]) -> None:
    before = pipeline.read_status(path)
    pipeline.run(path, until="pairs")
    assert pipeline.read_status(path) == before
    assert loaded == []


def test_a_finished_run_imports_no_torch(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agfsync import pipeline;"
        f"pipeline.run(Path({str(path)!r}), until='pairs');"
        "sys.exit(bool({'torch', 'transformers', 'diffusers', 'openai'} & set(sys.modules)))"
    )
    paths = [str(Path(__file__).parents[1] / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def test_generators_are_checked_for_the_stages_that_are_due(
    path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(pipeline, "check_generators", lambda recipe, stages: asked.append(list(stages)))
    pipeline.prepare(path, make_recipe(pairs={"choose": {"weights": {"red": 0.25, "vqa": 0.5}}}), update=True)
    pipeline.run_stage(path, "scores")
    pipeline.run_stage(path, "pairs")
    pipeline.prepare(path, make_recipe(seed=1), update=True)
    pipeline.run(path, until="scores")
    assert asked == [[], ["pairs"], ["captions", "questions", "candidates", "scores"]]


def test_the_recipe_in_the_run_is_whole_and_says_its_versions(path: Path, recipe: Recipe) -> None:
    text = (path / "recipe.yaml").read_text()
    assert text.startswith("# agfsync ") and "torch " in text.splitlines()[0]
    assert yaml.safe_load(text) == pipeline.choose_dtypes(recipe).model_dump(mode="json")


def test_other_settings_are_told_with_both_values(path: Path, make_recipe: Any) -> None:
    other = make_recipe(pairs={"choose": {"weights": {"red": 0.25, "vqa": 0.5}}})
    says = r"other settings \(pairs.choose.weights.red 1.0 -> 0.25\): --update .* from pairs,.* choose another --out"
    with pytest.raises(RunError, match=says):
        pipeline.prepare(path, other)
    assert set(states(path).values()) == {"done", "to do"}


def test_a_fork_goes_on_by_itself_and_draws_nothing_again(
    path: Path, tmp_path: Path, make_recipe: Any, loaded: list[str]
) -> None:
    loaded.clear()
    before, files = marks(path), pipeline.verify(path)
    recipes = [make_recipe(pairs={"choose": {"weights": {"red": red, "vqa": 0.5}}}) for red in (1.0, 0.25, 0.5)]
    for number, recipe in enumerate(recipes):
        arm = fork_run(path, tmp_path / f"arm-{number}").path
        assert marks(arm) == before
        pipeline.prepare(arm, recipe, update=True)
        pipeline.run(arm, until="pairs")
        assert pipeline.verify(arm) >= files and marks(arm)[:4] == before[:4]
    assert loaded == [] and marks(path) == before
    assert pipeline.verify(path) == files


def test_other_weights_run_again_from_the_pairs(path: Path, make_recipe: Any, loaded: list[str]) -> None:
    pipeline.prepare(path, make_recipe(pairs={"choose": {"weights": {"red": 0.25, "vqa": 0.5}}}), update=True)
    assert [name for name, state in states(path).items() if state == "out of date"] == ["pairs"]
    pipeline.run(path, until="pairs")
    assert states(path)["pairs"] == "done"
    assert loaded == []


def test_what_follows_from_something_out_of_date_is_out_of_date(path: Path, make_recipe: Any) -> None:
    pipeline.prepare(path, make_recipe(seed=1), update=True)
    pipeline.run(path, until="questions")
    pipeline.prepare(path, make_recipe(seed=2), update=True)
    assert [states(path)[name] for name in pipeline.NAMES[:5]] == ["out of date"] * 5


def test_settings_that_change_no_result_are_taken_up_without_asking(path: Path, make_recipe: Any) -> None:
    pipeline.prepare(path, make_recipe(failure_budget=0.5, scores={"batch": 1}))
    assert states(path)["pairs"] == "done"
    assert yaml.safe_load((path / "recipe.yaml").read_text())["scores"]["batch"] == 1


def test_going_back_to_earlier_settings_finds_what_was_made(
    path: Path, recipe: Recipe, make_recipe: Any, loaded: list[str]
) -> None:
    pipeline.prepare(path, make_recipe(seed=1), update=True)
    pipeline.run(path, until="pairs")
    assert len(loaded) == 3
    pipeline.prepare(path, recipe, update=True)
    pipeline.run(path, until="pairs")
    assert len(loaded) == 3


def test_a_verb_runs_its_stage_and_names_the_one_it_lacks(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "run"
    pipeline.prepare(path, recipe)
    with pytest.raises(RunError, match=f"scores needs captions: type `agfsync captions {path}` first"):
        pipeline.run_stage(path, "scores")
    pipeline.run_stage(path, "captions")
    assert states(path)["captions"] == "done"


def test_a_corrupt_part_is_made_anew_by_the_same_command(path: Path, make_recipe: Any) -> None:
    with Run.open(path) as run:
        before = list(run.read("candidates", Candidate))
    part = path / "candidates" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    more = {name: {"type": "double", "path": "none"} for name in ("red", "vqa", "third")}
    pipeline.prepare(path, make_recipe(scorers=more), update=True)
    progress = Told()
    pipeline.run(path, until="pairs", progress=progress)
    (line,) = (line for line in progress.lines if "part-000000" in line)
    assert line == f"{part} (12 units) is damaged: it was quarantined, to be regenerated"
    with Run.open(path) as run:
        assert list(run.read("candidates", Candidate)) == before
        assert len(list(run.read("pairs", Pair))) > 0


def test_a_part_that_is_damaged_while_a_stage_is_at_work_is_made_anew_too(
    path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "READ_AT_ONCE", 0)
    part = path / "candidates" / "part-000000.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    more = {name: {"type": "double", "path": "none"} for name in ("red", "vqa", "third")}
    pipeline.prepare(path, make_recipe(scorers=more), update=True)
    progress = Told()
    pipeline.run(path, until="pairs", progress=progress)
    assert any("it was quarantined" in line for line in progress.lines)
    assert states(path)["pairs"] == "done" and part.read_bytes() == data


def test_captions_are_made_anew_with_all_that_were_written_after_them(path: Path) -> None:
    with Run.open(path) as run:
        before = list(run.read("captions", Caption))
    first, *others = sorted((path / "captions").iterdir())
    first.unlink()
    pipeline.run(path, until="pairs")
    with Run.open(path) as run:
        assert list(run.read("captions", Caption)) == before
    assert len(list((path / "captions").glob("*.after-corrupt"))) == len(others) > 0
    assert set(states(path).values()) == {"done", "to do"}


def test_questions_that_are_others_when_made_anew_are_scored_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import doubles

    def other(self: Any, caption: str, seed: int) -> list[Any]:
        return [doubles.QuestionDraft(f"Is {word} to be seen?", "yes", word, "object") for word in caption.split()]

    with Run.open(path) as run:
        before = {key for (key,) in run._manifest.fetch_all("SELECT key FROM units WHERE stage = 'scores'")}
    (path / "questions" / "part-000000.parquet").unlink()
    monkeypatch.setattr(doubles.Writer, "questions", other)
    pipeline.run(path, until="pairs")
    with Run.open(path) as run:
        assert all("to be seen" in question.text for question in run.read("questions", Question))
        assert not before.issuperset(run.list_selected("scores"))
    assert states(path)["pairs"] == "done"


def test_a_finished_run_changes_no_byte_and_asks_for_no_lock(path: Path, recipe: Recipe) -> None:
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}
    with Run.open(path, writing=True):  # as another process has it
        pipeline.prepare(path, recipe)
        pipeline.run(path, until="pairs")
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}
    del before[path / "lock"], after[path / "lock"]
    assert after == before


def test_files_that_a_stage_made_are_made_anew_and_a_log_is_only_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(context: Any) -> dict[str, Any]:
        (context.run.path / "model").mkdir(exist_ok=True)
        (context.run.path / "model" / "weights.safetensors").write_bytes(b"weights")
        (context.run.path / "model" / "README.md").write_text("a card")
        (context.run.path / "training").mkdir(exist_ok=True)
        (context.run.path / "training" / "metrics.jsonl").write_text("{}")
        return {}

    monkeypatch.setattr("agfsync.stages.training.run", write)
    monkeypatch.setattr(pipeline, "check_generators", lambda recipe, stages: None)
    pipeline.run(path, until="training")
    assert pipeline.verify(path) > 0
    weights, log = path / "model" / "weights.safetensors", path / "training" / "metrics.jsonl"
    (path / "model" / "README.md").write_text("edited")
    weights.write_bytes(b"weightz")
    log.write_text("[]")
    progress = Told()
    pipeline.run(path, until="training", progress=progress)
    assert weights.read_bytes() == b"weights"
    aside = f"{weights} is damaged: it was quarantined, to be regenerated"
    told = f"{log} is damaged: put it back, or delete {log.parent} to regenerate it"
    assert sorted(progress.lines) == sorted([aside, told])


def test_verify_reads_every_byte(path: Path) -> None:
    files = pipeline.verify(path)
    assert files == len(list(path.glob("*/*.parquet")))
    part = path / "scores" / "part-000000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    with pytest.raises(DamagedError, match=f"1 of {files} files failed verification: .*part-000000.*was quarantined"):
        pipeline.verify(path)
    assert states(path)["scores"] == "to do" or states(path)["scores"] == "under way"


def test_the_time_of_an_interrupted_stage_adds_up(path: Path) -> None:
    with Run.open(path, writing=True) as run:
        earlier = run.sum_seconds("candidates", until=run.find_newest_part())
        run.reopen("candidates")
    pipeline.run(path, until="pairs")
    finished = next(s.finished for s in pipeline.read_status(path) if s.name == "candidates")
    assert finished is not None and finished.seconds > earlier > 0


def test_what_an_interrupted_stage_says_it_took_is_added_and_no_note(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agfsync.stages.pairs.run", lambda _: {EARLIER: 100.0, "pairs": 3})
    with Run.open(path, writing=True) as run:
        run.reopen("pairs")
    pipeline.run(path, until="pairs")
    finished = next(s.finished for s in pipeline.read_status(path) if s.name == "pairs")
    assert finished is not None and 100 < finished.seconds < 160 and finished.notes == {"pairs": 3}


def test_a_stage_that_has_begun_is_under_way(path: Path) -> None:
    (path / "training").mkdir()
    with Run.open(path, writing=True) as run:
        run.commit("evaluation_images", {"a": []}, Candidate.schema)
    assert [states(path)[name] for name in ("training", "evaluation", "report")] == ["under way", "under way", "to do"]


def test_a_disk_that_fails_inside_a_stage_is_told(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("agfsync.stages.captions.run", full)
    pipeline.prepare(tmp_path / "run", recipe)
    with pytest.raises(StoreError, match="the disk is full: make room, then type the same command again"):
        pipeline.run(tmp_path / "run", until="captions")


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_one_line_that_says_what_to_lower(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def greedy(_: Any) -> None:
        raise failure

    pipeline.prepare(tmp_path / "run", recipe)
    pipeline.run(tmp_path / "run", until="candidates")
    monkeypatch.setattr("agfsync.stages.scores.run", greedy)
    with pytest.raises(
        OutOfMemoryError, match=r"scores ran out of memory \(.*\): lower the scorers' dtype to bf16, or"
    ) as told:
        pipeline.run(tmp_path / "run", until="scores")
    assert "\n" not in str(told.value)


def test_a_batch_that_does_not_fit_is_lowered_once_and_the_next_command_knows(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("doubles.ROOM", 3)
    pipeline.prepare(tmp_path / "run", recipe)
    pipeline.run(tmp_path / "run", until="candidates", progress=LogProgress())
    lowered = "candidates: out of memory: 2 images at a time instead of 4; memory.json remembers it"
    assert [line for line in capsys.readouterr().err.splitlines() if "memory" in line] == [lowered]
    with Run.open(tmp_path / "run", writing=True) as run, run._manifest.transaction() as db:
        db.execute("DELETE FROM units WHERE stage = 'candidates' AND place > 5")
        db.execute("DELETE FROM stages WHERE name = 'candidates'")
    drawn: list[int] = []
    draw = doubles.Generator.draw
    monkeypatch.setattr(doubles.Generator, "draw", lambda *args: drawn.append(len(args[2])) or draw(*args))
    pipeline.run(tmp_path / "run", until="pairs", progress=LogProgress())
    assert drawn == [2] * 12
    assert set(states(tmp_path / "run").values()) == {"done", "to do"}


def test_a_prompt_file_that_changes_runs_again_what_follows_and_one_that_is_gone_is_told(
    tmp_path: Path, make_recipe: Any
) -> None:
    path, file = tmp_path / "run", tmp_path / "prompts.txt"
    file.write_text("".join(f"a cat {number}\n" for number in range(17)))
    pipeline.prepare(path, make_recipe(captions={"source": str(file)}))
    pipeline.run(path, until="pairs")
    with Run.open(path) as run:
        before = run.find_newest_part()
    moved = tmp_path / "moved.txt"
    moved.write_bytes(file.read_bytes())
    pipeline.prepare(path, make_recipe(captions={"source": str(moved)}))
    assert set(states(path).values()) == {"done", "to do"}
    moved.write_text(moved.read_text().replace("cat 3", "dog"))
    assert states(path)["captions"] == "out of date"
    pipeline.run(path, until="pairs")
    assert states(path)["pairs"] == "done"
    with Run.open(path) as run:
        assert run.find_newest_part() > before
    moved.unlink()
    with pytest.raises(FormatError, match=r"moved\.txt: no such file or folder"):
        pipeline.run(path, until="pairs")


def test_a_generator_beside_draws_more_and_without_one_the_digest_is_as_it_was(
    path: Path, recipe: Recipe, make_recipe: Any, loaded: list[str]
) -> None:
    (stage,) = (stage for stage in pipeline.STAGES if stage.name == "candidates")
    source = digest_generator(recipe.model)
    assert stage.settings(recipe) == (0, {"per_caption": 4}, source)
    more = make_recipe(candidates={"beside": {"other": {"type": "double", "path": "other"}}})
    pipeline.prepare(path, more, update=True)
    pipeline.run(path, until="pairs")
    assert loaded[0] == "other" and "generator" not in loaded
    assert set(states(path).values()) == {"done", "to do"}


def test_a_model_beside_is_checked_with_the_recipe(make_recipe: Any) -> None:
    with pytest.raises(
        RecipeError, match="candidates.beside.other: no model is called 'doubel': did you mean 'double'"
    ):
        make_recipe(candidates={"beside": {"other": {"type": "doubel", "path": "other"}}})


def test_a_model_beside_is_looked_for_at_the_start(tmp_path: Path, make_recipe: Any) -> None:
    beside = {"other": {"type": "double", "path": "./nowhere"}}
    with pytest.raises(ModelError, match="no model at './nowhere'"):
        pipeline.prepare(tmp_path, make_recipe(candidates={"beside": beside}))


def counted(**changes: Any) -> Any:
    (stage,) = (stage for stage in pipeline.STAGES if stage.name == "training")
    _, settings, _ = stage.settings(Recipe.model_validate({"training": changes}))
    return settings


def test_a_training_counts_as_another_only_if_its_result_is() -> None:
    for same in ({"accumulate": 2}, {"gradient_checkpointing": True}, {"trackers": ["wandb"]}, {"checkpoint_every": 7}):
        assert counted(**same) == counted()
    for other in (
        {"ema": 0.99},
        {"caption_dropout": 0.1},
        {"min_snr_gamma": 5.0},
        {"optimizer": "adamw8bit"},
        {"loss_space": "epsilon"},
    ):
        assert counted(**other) == counted() | other != counted()


def test_another_engine_is_taken_up_without_asking(path: Path, make_recipe: Any) -> None:
    pipeline.prepare(path, make_recipe(engine={"workers": 2}))
    assert set(states(path).values()) == {"done", "to do"}
    assert yaml.safe_load((path / "recipe.yaml").read_text())["engine"]["workers"] == 2


def test_ray_is_looked_for_at_the_start(tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="engine ray needs the package ray: pip install ray"):
        pipeline.prepare(tmp_path / "run", make_recipe(engine="ray"))


@pytest.mark.parametrize(
    ("setting", "package"), [({"optimizer": "adamw8bit"}, "bitsandbytes"), ({"trackers": ["trackio"]}, "trackio")]
)
def test_a_missing_package_is_told_at_the_start(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any], package: str
) -> None:
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=f"needs the package {package}"):
        pipeline.prepare(tmp_path / "run", make_recipe(training=setting))
    assert not (tmp_path / "run").exists()


def test_what_to_lower_leaves_out_what_is_set() -> None:
    (training,) = (stage for stage in pipeline.STAGES if stage.name == "training")
    recipe = Recipe.load("sd15")
    assert training.advise_on_memory(recipe).endswith("or train a LoRA (training.lora)")
    changed = recipe.with_({"training.lora": {"rank": 8}, "training.gradient_checkpointing": True})
    advice = "training.batch, or store the frozen network in few bits (model.quantization)"
    assert training.advise_on_memory(changed) == advice
