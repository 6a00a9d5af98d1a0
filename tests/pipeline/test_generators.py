"""What can't be drawn with or trained is told before anything is written, by the run and the doctor alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers_pixels import edited, replaced
from safetensors.torch import load_file, save_file

from agfsync import catalog, cli, pipeline
from agfsync.errors import ModelError, RecipeError
from agfsync.models import hub
from agfsync.pipeline.checks import find_faults
from agfsync.recipe import dump_recipe
from agfsync.records import Caption
from agfsync.store import Run

UP_TO_PAIRS = pipeline.NAMES[: pipeline.NAMES.index("pairs") + 1]
VAE, UNET, INDEX = "vae/config.json", "unet/config.json", "model_index.json"
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def scheduled(folder: Path, to: Path, scheduler: Any) -> Path:
    return replaced(folder, to, "scheduler", scheduler)


def rewritten(folder: Path, to: Path, part: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy whose part has other tensors in its file."""
    edited(folder, to, {})
    save_file(change(load_file(to / WEIGHTS[part])), to / WEIGHTS[part])
    return to


def without_first(tensors: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(tensors.items())[1:])


def compiled(tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}


SD, XL = "stable-diffusion", "stable-diffusion-xl"
REFUSED: dict[str, tuple[str, Callable[[Path, Path], Path], str]] = {
    "flow scheduler": (
        XL,
        lambda folder, to: scheduled(folder, to, diffusers.FlowMatchEulerDiscreteScheduler()),
        "a FlowMatchEulerDiscreteScheduler, which has no scale_model_input, init_noise_sigma",
    ),
    "EDM scheduler": (
        XL,
        lambda folder, to: scheduled(folder, to, diffusers.EDMEulerScheduler()),
        "can't be trained: its scheduler, EDMEulerScheduler, has no alphas_cumprod",
    ),
    "sample": (
        SD,
        lambda folder, to: scheduled(folder, to, diffusers.DDIMScheduler(prediction_type="sample")),
        "can't be trained: it predicts 'sample'",
    ),
    "zero SNR": (
        SD,
        lambda folder, to: scheduled(
            folder, to, diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
        ),
        "begins at zero terminal SNR",
    ),
    "inpainting": (SD, lambda folder, to: edited(folder, to, {UNET: {"in_channels": 9}}), "in_channels 9"),
    "no size": (SD, lambda folder, to: edited(folder, to, {UNET: {"sample_size": None}}), "set height and width"),
    "video VAE": (
        SD,
        lambda folder, to: edited(folder, to, {INDEX: {"vae": ["diffusers", "AutoencoderKLTemporalDecoder"]}}),
        "its VAE is a AutoencoderKLTemporalDecoder",
    ),
    "no encoder": (SD, lambda folder, to: edited(folder, to, {INDEX: {"text_encoder": [None, None]}}), "no text_enc"),
    **{
        f"{change.__name__} {part}": (
            SD,
            lambda folder, to, part=part, change=change: rewritten(folder, to, part, change),  # type: ignore[misc]
            rf"\({part}\) has no weights that fit a \w+: {count} of its weights are missing",
        )
        for part in WEIGHTS
        for change, count in ((without_first, "1"), (compiled, r"\d+"))
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_be_drawn_or_trained_is_told_before_anything_is_written(
    name: str, tiny_generator: Path, tiny_xl_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    type_, spoil, says = REFUSED[name]
    folder = spoil(tiny_xl_generator if type_ == XL else tiny_generator, tmp_path / "model")
    recipe = make_recipe(model={"type": type_, "path": str(folder), "device": "cpu", "sampling": {"steps": 4}})
    run = tmp_path / "run"
    pipeline.prepare(run, recipe)
    with pytest.raises(ModelError, match=says) as caught:
        pipeline.run(run)
    assert "\n" not in str(caught.value)
    assert all(standing.state == "to do" for standing in pipeline.read_status(run))
    with Run.open(run) as opened:
        assert not list(opened.read("captions", Caption))
    assert not list(run.rglob("*.parquet"))
    assert [str(fault) for fault in find_faults(recipe)] == [str(caught.value)], "the doctor's line"


def test_the_doctor_prints_the_line_and_loads_nothing(
    tiny_xl_generator: Path,
    tmp_path: Path,
    make_recipe: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = scheduled(tiny_xl_generator, tmp_path / "model", diffusers.EDMEulerScheduler())
    recipe = make_recipe(model={"type": XL, "path": str(folder), "sampling": {"steps": 4}})
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    monkeypatch.setattr(catalog, "build", lambda *arguments: pytest.fail("something was loaded"))
    assert cli.main(["doctor", str(path), "--json"]) == 2
    (line,) = find_faults(recipe)
    assert str(line) in json.loads(capsys.readouterr().out)["missing"]


@pytest.mark.parametrize("type_", [SD, XL, "stable-diffusion-3", "flux"])
def test_sound_models_pass(
    type_: str,
    tiny_generator: Path,
    tiny_xl_generator: Path,
    tiny_sd3_generator: Path,
    tiny_flux_generator: Path,
    make_recipe: Callable[..., Any],
) -> None:
    folders = {SD: tiny_generator, XL: tiny_xl_generator}
    folders |= {"stable-diffusion-3": tiny_sd3_generator, "flux": tiny_flux_generator}
    generator = {"type": type_, "path": str(folders[type_]), "sampling": {"steps": 4}}
    recipe = make_recipe(model=generator, candidates={"beside": {"other": generator}})
    assert not list(pipeline.checks.find_generator_faults(recipe, UP_TO_PAIRS))
    told = [str(fault) for fault in pipeline.checks.find_generator_faults(recipe, pipeline.NAMES)]
    assert not told


def test_a_model_drawn_beside_may_be_one_that_cant_be_trained(
    tiny_generator: Path, tiny_xl_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    edm = scheduled(tiny_xl_generator, tmp_path / "edm", diffusers.EDMEulerScheduler())
    flow = scheduled(tiny_xl_generator, tmp_path / "flow", diffusers.FlowMatchEulerDiscreteScheduler())
    first = {"type": SD, "path": str(tiny_generator), "sampling": {"steps": 4}}
    for folder, count in ((edm, 0), (flow, 1)):
        beside = {"other": {"type": XL, "path": str(folder), "sampling": {"steps": 4}}}
        assert len(find_faults(make_recipe(model=first, candidates={"beside": beside}))) == count


def test_what_cant_be_trained_is_drawn_up_to_the_pairs(
    tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    folder = scheduled(tiny_generator, tmp_path / "model", diffusers.DDIMScheduler(prediction_type="sample"))
    recipe = make_recipe(model={"type": SD, "path": str(folder), "sampling": {"steps": 4}})
    assert not list(pipeline.checks.find_generator_faults(recipe, UP_TO_PAIRS))
    assert not list(pipeline.checks.find_generator_faults(recipe, ["captions"]))


@pytest.mark.parametrize(
    ("stages", "count"),
    [
        (["captions", "questions"], 0),
        (["scores", "pairs", "report"], 0),
        (["candidates"], 2),
        (["evaluation"], 1),
        (["training"], 1),
        (pipeline.NAMES, 2),
    ],
)
def test_only_the_generators_that_the_stages_load_are_checked(
    stages: list[str], count: int, tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    first, other = (
        {"type": SD, "path": str(edited(tiny_generator, tmp_path / name, {UNET: {"in_channels": channels}}))}
        for name, channels in (("first", 9), ("other", 5))
    )
    recipe = make_recipe(model=first, candidates={"beside": {"other": other}})
    told = [str(fault) for fault in pipeline.checks.find_generator_faults(recipe, stages)]
    assert len(told) == count and all("in_channels 9" in line for line in told[:1])


def test_of_a_pair_set_only_the_aligned_generator_counts(
    tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    flawed = edited(tiny_generator, tmp_path / "model", {UNET: {"in_channels": 9}})
    sound, other = ({"type": SD, "path": str(folder), "sampling": {"steps": 4}} for folder in (tiny_generator, flawed))
    pairs = {"source": str(tmp_path / "pairs")}
    recipe = make_recipe(model=sound, candidates={"beside": {"other": other}}, pairs=pairs)
    assert not list(pipeline.checks.find_generator_faults(recipe))
    recipe = make_recipe(model=other, pairs=pairs)
    assert not list(pipeline.checks.find_generator_faults(recipe, UP_TO_PAIRS))
    assert len(list(pipeline.checks.find_generator_faults(recipe))) == 1


ANOTHER = {"path": "other/model"}
UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("flux", {"clip_skip": 1}, "unknown key 'model.clip_skip'"),
    ("flux", {"unet": ANOTHER}, "unknown key 'model.unet'"),
    ("flux", {"config": "other/model"}, "unknown key 'model.config'"),
    ("flux", {"refiner": ANOTHER | {"from_step": 2}}, "unknown key 'model.refiner'"),
    ("stable-diffusion-3", {"clip_skip": 1}, "unknown key 'model.clip_skip'"),
    (SD, {"transformer": ANOTHER}, "unknown key 'model.transformer'"),
    (SD, {"refiner": ANOTHER | {"from_step": 2}}, "unknown key 'model.refiner'"),
    (XL, {"transformer": ANOTHER}, "unknown key 'model.transformer'"),
]


@pytest.mark.parametrize(("type_", "more", "says"), UNKNOWN)
def test_settings_that_the_type_lacks_are_refused_with_the_recipe(
    type_: str, more: dict[str, Any], says: str, make_recipe: Callable[..., Any]
) -> None:
    with pytest.raises(RecipeError, match=says):
        make_recipe(model={"type": type_, "path": "some/model"} | more)


def test_a_scheduler_that_the_type_lacks_is_told_at_once(
    hub_cache: Callable[..., str], make_recipe: Callable[..., Any]
) -> None:
    flux = {"type": "flux", "path": "some/model", "sampling": {"steps": 4, "scheduler": "ddim"}}
    (fault,) = find_faults(make_recipe(model=flux))
    assert "set its scheduler to model, not ddim" in str(fault)


def drawable(make_recipe: Callable[..., Any], **settings: Any) -> str:
    """What keeps from drawing with a Stable Diffusion of these settings; "" where nothing does."""
    generator = {"type": SD, "sampling": {"steps": 4}, **settings}
    recipe = make_recipe(model=generator)
    return "; ".join(str(fault) for fault in pipeline.checks.find_generator_faults(recipe, UP_TO_PAIRS))


@pytest.mark.parametrize("shape", ["part", "pipeline", "home"])
def test_an_exchanged_part_counts_by_its_own_class(
    shape: str, tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = {VAE: {"_class_name": "AutoencoderKLTemporalDecoder"}}
    kind = {"vae": ["diffusers", "AutoencoderKLTemporalDecoder"]}
    flawed = edited(tiny_generator, tmp_path / "flawed", {**video, INDEX: kind})
    monkeypatch.setenv("HOME", str(tmp_path.parent))

    def place(model: Path) -> str:
        if shape == "home":
            link = tmp_path.parent / f"{tmp_path.name}-{model.name}"
            link.symlink_to(model)
            return f"~/{link.name}"
        return str(model / "vae" if shape == "part" else model)

    assert not drawable(make_recipe, path=str(flawed), vae={"path": place(tiny_generator)})
    says = drawable(make_recipe, path=str(tiny_generator), vae={"path": place(flawed)})
    assert "its VAE is a AutoencoderKLTemporalDecoder" in says


def test_the_configuration_of_a_single_file_may_lie_at_home(
    tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(tiny_generator, tmp_path / "flawed", {UNET: {"in_channels": 9}})
    monkeypatch.setenv("HOME", str(tmp_path))
    file = str(tmp_path / "any.safetensors")
    assert "in_channels 9" in drawable(make_recipe, path=file, config="~/flawed")
    assert not drawable(make_recipe, path=file, config="embedded:generator")


def test_parts_that_arent_loaded_are_not_read(
    tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    checker = {INDEX: {"safety_checker": ["diffusers", "AutoencoderKL"]}}
    folder = edited(tiny_generator, tmp_path / "model", checker)
    (folder / "safety_checker").mkdir(exist_ok=True)
    (folder / "safety_checker" / "config.json").write_text((folder / VAE).read_text())
    (folder / "safety_checker" / Path(WEIGHTS["vae"]).name).write_bytes(b"none")
    assert not drawable(make_recipe, path=str(folder))


@pytest.mark.parametrize("index", [[], {"unet": [None, 5], "vae": ["x"]}, {"unet": ["mine", "Net"], "vae": 3}])
def test_an_index_of_anything_is_one_line_or_left_to_the_loading(
    index: Any, tiny_generator: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    folder = edited(tiny_generator, tmp_path / "model", {})
    tree = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index if isinstance(index, list) else tree | index))
    for fault in find_faults(make_recipe(model={"type": SD, "path": str(folder), "sampling": {"steps": 4}})):
        assert isinstance(fault, ModelError) and "\n" not in str(fault)


def test_a_hub_model_that_isnt_at_hand_is_left_to_the_loading(
    hub_cache: Callable[..., str], make_recipe: Callable[..., Any]
) -> None:
    assert not find_faults(make_recipe(model={"type": SD, "path": "some/model"}))


SCORED = {"clip": {"type": "clip", "path": "some/model"}}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": {"type": SD, "path": "some/model"}}, "model"),
        ({"model": {"type": "flux", "path": "some/model", "sampling": {"guidance": 3.5}}}, "model"),
        ({"scorers": SCORED, "pairs": {"choose": {"weights": {"clip": 1.0}}}}, "scorers.clip"),
    ],
)
def test_a_hub_model_that_cant_be_had_is_refused_before_the_captions(
    changes: dict[str, Any],
    place: str,
    hub_cache: Callable[..., str],
    make_recipe: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    pipeline.prepare(run, make_recipe(**changes))
    with pytest.raises(ModelError, match=rf"can't load the model some/model \({place}\): .*offline mode.*cache"):
        pipeline.run(run, until="pairs")
    assert all(standing.state == "to do" for standing in pipeline.read_status(run))
    answer = hub.HubAnswer(fault="the hub has no such model, or it is private: set HF_TOKEN")
    monkeypatch.setattr(hub, "ask_hub", lambda *arguments: answer)
    with pytest.raises(ModelError, match="the hub has no such model"):
        pipeline.run(run, until="pairs")
    pipeline.run(run, until="questions")


def test_a_hub_model_in_the_cache_or_on_the_hub_passes(
    hub_cache: Callable[..., str], make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(scorers=SCORED, pairs={"choose": {"weights": {"clip": 1.0}}})
    monkeypatch.setattr(hub, "ask_hub", lambda *arguments: hub.HubAnswer("a" * 40, {"model.safetensors": 1}))
    pipeline.checks.check_generators(recipe, ["scores"])
    monkeypatch.setattr(hub, "ask_hub", lambda *arguments: hub.HubAnswer(fault="it is gated"))
    hub_cache("some/model", "config.json")
    pipeline.checks.check_generators(recipe, ["scores"])


def test_a_plug_in_that_no_class_is_known_of_is_made_by_the_run_and_not_by_the_doctor(
    monkeypatch: pytest.MonkeyPatch, make_recipe: Callable[..., Any], loaded: list[str]
) -> None:
    import doubles

    monkeypatch.setattr(catalog, "find", lambda kind, name: lambda path, **settings: doubles.Generator(path))
    recipe = make_recipe()
    assert not list(pipeline.checks.find_generator_faults(recipe)) and not loaded
    (fault,) = pipeline.checks.find_generator_faults(recipe, may_load=True)
    assert "type double draws and is scored, but can't be trained: it has no device" in str(fault)
    assert loaded == ["none"]
