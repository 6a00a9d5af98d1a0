"""The Python API, on the embedded world."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import agfsync
from agfsync.store import Run

SMALL = {
    "captions.count": 4,
    "captions.held_out": 3,
    "candidates.per_caption": 3,
    "model.sampling": {"steps": 2, "guidance": 4.0, "scheduler": "dpm++"},
    "training.steps": 2,
    "training.batch": 2,
    "engine": "local",
}
PUBLIC = [
    *("AgfsyncError", "BudgetError", "DivergedError", "Explanation", "FormatError", "LoadedRun", "Model", "ModelError"),
    *("OutOfMemoryError", "Recipe", "RecipeError", "RunCandidate", "RunError", "RunPair", "Scorer", "StoreError"),
    *("Table", "compare", "doctor", "export", "fork", "load_run", "run"),
]


@pytest.fixture(scope="module")
def recipe() -> agfsync.Recipe:
    return agfsync.Recipe.load("shapes").with_(SMALL)


@pytest.fixture(scope="module")
def run(recipe: agfsync.Recipe, tmp_path_factory: pytest.TempPathFactory) -> agfsync.LoadedRun:
    return agfsync.run(recipe, tmp_path_factory.mktemp("api") / "run", progress=False)


def test_the_public_names_are_pinned_and_there() -> None:
    assert agfsync.__all__ == PUBLIC
    assert all(getattr(agfsync, name).__module__.startswith("agfsync.") for name in PUBLIC)
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        agfsync.Trainer  # type: ignore[attr-defined] # noqa: B018


def test_the_import_is_lazy() -> None:
    heavy = "{'torch', 'pyarrow', 'pydantic', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", f"import agfsync, sys; sys.exit(len({heavy}))"]).returncode == 0


@pytest.mark.slow
def test_a_run_is_read_by_its_tables(run: agfsync.LoadedRun) -> None:
    assert [each.state for each in run.status] == ["done"] * 8
    assert (len(run.captions), len(run.candidates)) == (7, 12)
    first = run.candidates[0]
    assert first.image.size == (64, 64) and first.index == 0 and run.candidates[-1].index == 2
    assert [c.key for c in run.candidates[:2]] == [c.key for c in list(run.candidates)[:2]]
    with pytest.raises(IndexError, match="the table candidates has 12 rows: no row 12"):
        run.candidates[12]
    assert run.report.is_file() and "report" not in repr(run)


@pytest.mark.slow
def test_a_table_is_an_arrow_table_a_data_frame_and_a_dataset(run: agfsync.LoadedRun) -> None:
    assert run.scores.to_arrow().num_rows == len(run.scores) == 12 * 3
    frame = run.pairs.to_pandas()
    assert list(frame["margin"]) == [pair.margin for pair in run.pairs] and (frame["margin"] > 0).all()
    assert run.candidates.to_dataset()[0]["image"].size == (64, 64)
    assert set(run.evaluation.to_pandas()["judge"]) == {"vqa", "clip", "aesthetic", "oracle"}


@pytest.mark.slow
def test_a_pair_explains_itself(run: agfsync.LoadedRun) -> None:
    pair = run.pairs[0]
    why = pair.explain()
    weights = run.recipe.pairs.weights
    totals = [sum(weights[name] * values[side] for name, values in why.scores.items()) for side in (0, 1)]
    assert totals == pytest.approx([pair.winner_score, pair.loser_score])
    parts = {name: weights[name] * (won - lost) for name, (won, lost) in why.scores.items()}  # type: ignore[operator]
    assert why.parts == pytest.approx(parts) and sum(why.parts.values()) == pytest.approx(pair.margin)
    assert f"{why.parts['vqa']:+.1f} of the margin" in str(why)
    asked = {q.text for q in run.questions if q.caption_key == pair.caption_key}
    answered = {s.candidate_key: s.answers for s in run.scores if s.scorer == "vqa"}
    expected = {q.key: q.answer for q in run.questions}
    assert len(why.failed) == sum(a.answer != expected[a.question_key] for a in answered[pair.loser_key])
    assert all(question.rpartition(" ")[0] in asked for question in why.failed)
    assert [image.size for image in why.images] == [(64, 64)] * 2
    assert why.caption in str(why) and "margin" in str(why)


@pytest.mark.slow
def test_a_notebook_shows_runs_tables_images_and_pairs(run: agfsync.LoadedRun) -> None:
    assert "<th>training</th><td>done</td>" in run._repr_html_()
    page = run.candidates._repr_html_()
    assert page.count("data:image/png;base64,") == 8 and "<p>12 rows</p>" in page
    assert run.candidates[0]._repr_html_().startswith("<img ")
    assert run.pairs[0].explain()._repr_html_().count("<img ") == 2


@pytest.mark.slow
def test_the_aligned_model_draws_other_images_than_the_base(run: agfsync.LoadedRun) -> None:
    prompts, seeds = ["a red heart", "two blue stars"], [0, 1]
    base, aligned = run.base_model().draw(prompts, seeds), run.model().draw(prompts, seeds)
    assert [image.size for image in aligned] == [(64, 64)] * 2
    assert all(one.tobytes() != other.tobytes() for one, other in zip(base, aligned, strict=True))
    with Run.open(run.path) as opened:
        caption = next(c for c in run.captions if c.split == "held-out")
        row = next(r for r in opened.rows("evaluation_images") if r["caption_key"] == caption.key)
    drawn = run.base_model().draw([caption.text], [row["seed"]])[0]
    stored = next(r for r in [row] if r["generator"] == "base")
    assert agfsync.api.tables.decode_image(stored["image"]["bytes"]).tobytes() == drawn.tobytes()


@pytest.mark.slow
def test_a_model_and_a_scorer_by_themselves() -> None:
    model = agfsync.Model("stable-diffusion", path="embedded:generator", sampling={"steps": 2})
    images = model.draw(["a red heart", "two blue stars"], seeds=[3, 4])
    values = [each.value for each in agfsync.Scorer("clip", path="embedded:clip").score(images, ["a red heart"] * 2)]
    assert all(value is not None and 0 <= value <= 100 for value in values)
    grey = Image.new("L", (64, 64), 128)
    assert agfsync.Scorer("vqa", path="embedded:vqa").score([grey], ["a"])[0].value is None


@pytest.mark.long
def test_a_fork_shares_what_is_done_and_goes_on_by_itself(run: agfsync.LoadedRun, tmp_path: Path) -> None:
    arms = [agfsync.fork(run, tmp_path / name) for name in ("one", "two", "three")]
    for beta, arm in zip((100.0, 1000.0, 4000.0), arms, strict=True):
        changed = arm.recipe.with_({"training.method.beta": beta})
        agfsync.run(changed, arm.path, until="training", update=True, progress=False)
        assert [c.key for c in arm.candidates] == [c.key for c in run.candidates]
        assert agfsync.pipeline.verify(arm.path) > 0
    assert len({(arm.path / "training" / "metrics.jsonl").read_text() for arm in [run, *arms]}) == 4


@pytest.mark.slow
def test_a_run_is_exported(run: agfsync.LoadedRun, tmp_path: Path) -> None:
    assert agfsync.export(run, "pick-a-pic", tmp_path / "pairs")["pairs"] == len(run.pairs)


def test_a_second_look_takes_no_lock(run: agfsync.LoadedRun) -> None:
    with Run.open(run.path, writing=True):
        assert len(agfsync.load_run(run.path).captions) == 7


def test_bad_use_is_one_line(recipe: agfsync.Recipe, tmp_path: Path) -> None:
    with pytest.raises(agfsync.RecipeError, match=r"training.stesp.*did you mean 'steps'"):
        recipe.with_({"training.stesp": 3})
    with pytest.raises(agfsync.RecipeError, match="no recipe 'nosuch'"):
        agfsync.run("nosuch", tmp_path / "run")
    with pytest.raises(agfsync.RunError, match="no run at"):
        agfsync.load_run(tmp_path / "nowhere")
    with pytest.raises(agfsync.RecipeError, match="no scorer is called 'clap': did you mean 'clip'"):
        agfsync.Scorer("clap")
    with pytest.raises(agfsync.ModelError, match="no embedded model 'embedded:nothing'"):
        agfsync.Model(path="embedded:nothing")
    with pytest.raises(agfsync.ModelError, match="no trained model at"):
        agfsync.run(recipe, tmp_path / "pairs", until="captions", progress=False).model()


def test_the_doctor_estimates_without_running(recipe: agfsync.Recipe, tmp_path: Path) -> None:
    found = agfsync.doctor(recipe, tmp_path / "run")
    assert found.can_begin and not (tmp_path / "run").exists()
