"""The training stage on a real, tiny Stable Diffusion."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from agfsync import catalog
from agfsync.engine.progress import SilentProgress
from agfsync.errors import ModelError, RecipeError, RunError
from agfsync.models import loading
from agfsync.models.latent_diffusion import LatentDiffusion
from agfsync.recipe.models import SamplingLora
from agfsync.stages import training
from agfsync.stages.context import EARLIER, Context
from agfsync.training import loop

SHORT = {"steps": 4, "batch": 3, "learning_rate": 1e-3, "checkpoint_every": 2, "precision": "fp32"}
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def paired(open_done: Callable[..., Context], make_recipe: Any, tiny_generator: Path) -> Context:
    """A run with pairs of images that the tiny generator drew."""
    return _open_paired(open_done, make_recipe, "stable-diffusion", tiny_generator)


@pytest.fixture
def paired_xl(open_done: Callable[..., Context], make_recipe: Any, tiny_xl_generator: Path) -> Context:
    """The same of the tiny SDXL."""
    return _open_paired(open_done, make_recipe, "stable-diffusion-xl", tiny_xl_generator)


def _open_paired(open_done: Callable[..., Context], make_recipe: Any, kind: str, model: Path) -> Context:
    generator = {"type": kind, "path": str(model), "device": "cpu", "sampling": {"steps": 2}}
    recipe = make_recipe(model=generator, training=SHORT | {"method": {"beta": 500.0}})
    return open_done(recipe, "captions", "questions", "candidates", "scores", "pairs")


def lines(context: Context) -> list[dict[str, float]]:
    text = (context.run.path / "training" / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]


def with_training(context: Context, make_recipe: Any, **changes: Any) -> Context:
    generator = context.recipe.model.model_dump()
    recipe = make_recipe(model=generator, training=SHORT | {"method": {"beta": 500.0}} | changes)
    return replace(context, recipe=recipe, digest=f"{context.digest}+{json.dumps(changes)}")


def test_makes_a_pipeline_whose_unet_alone_has_moved(paired: Context, tiny_generator: Path) -> None:
    notes = training.run(paired)
    model = paired.run.path / "model"
    assert [path.name for path in paired.run.path.glob("model*")] == ["model"]
    StableDiffusionPipeline.from_pretrained(model, use_safetensors=True)
    for name in (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        before, after = load_file(tiny_generator / name), load_file(model / name)
        assert before.keys() == after.keys()
        assert all(before[key].equal(after[key]) for key in before) == (name != UNET)
    assert notes["steps"] == 4 and notes["pairs"] == len(list(paired.run.rows("pairs")))
    assert json.dumps(notes)


def test_logs_every_step(paired: Context) -> None:
    training.run(paired)
    figures = {"loss", "implicit_accuracy", "winner_error_change", "loser_error_change"}
    assert [line["step"] for line in lines(paired)] == [1, 2, 3, 4]
    assert all(line.keys() == {"step", "gradient_norm", "learning_rate"} | figures for line in lines(paired))


def test_lora_makes_an_adapter_that_the_generator_takes(paired: Context, make_recipe: Any) -> None:
    context = with_training(paired, make_recipe, method={"beta": 500.0}, lora={"rank": 2})
    notes = training.run(context)
    model = context.run.path / "model"
    files = ["README.md", "model.json", f"{context.recipe.name}-kohya.safetensors", "pytorch_lora_weights.safetensors"]
    assert sorted(path.name for path in model.iterdir()) == sorted(files)
    generator = catalog.build("models", context.recipe.model.arguments() | {"adapter": model})
    assert len(generator.draw(["a"], [1], 0.0)) == 1
    assert 0 < notes["trained_parameters"] < 10_000


def test_an_sdxl_whose_unet_alone_has_moved(paired_xl: Context, tiny_xl_generator: Path) -> None:
    notes = training.run(paired_xl)
    model = paired_xl.run.path / "model"
    aligned = StableDiffusionXLPipeline.from_pretrained(model, use_safetensors=True)
    parts = [path.relative_to(tiny_xl_generator) for path in tiny_xl_generator.rglob("*.safetensors")]
    assert len(parts) == 4
    for part in parts:
        before, after = load_file(tiny_xl_generator / part), load_file(model / part)
        assert before.keys() == after.keys()
        assert all(before[key].equal(after[key]) for key in before) == (str(part) != UNET)
    assert aligned.unet.config.addition_embed_type == "text_time" and notes["steps"] == 4
    assert lines(paired_xl)[0]["implicit_accuracy"] == 0.5


def test_a_lora_of_an_sdxl_is_one_that_diffusers_takes(
    paired_xl: Context, make_recipe: Any, tiny_xl_generator: Path
) -> None:
    context = with_training(paired_xl, make_recipe, method={"beta": 500.0}, lora={"rank": 2})
    training.run(context)
    model = context.run.path / "model"
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_xl_generator, use_safetensors=True)
    pipeline.load_lora_weights(model)
    assert pipeline.get_active_adapters() == ["default_0"]
    assert any(p.any() for name, p in pipeline.unet.named_parameters() if "lora_B" in name)
    generator = catalog.build("models", context.recipe.model.arguments() | {"adapter": model})
    assert len(generator.draw(["a"], [1], 0.0)) == 1


@pytest.mark.long
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_gradient_checkpointing_changes_what_is_kept_and_not_what_is_learnt(
    paired_xl: Context, make_recipe: Any, lora: dict[str, Any] | None
) -> None:
    logs = []
    for checkpointing in (False, True):
        training.run(with_training(paired_xl, make_recipe, lora=lora, gradient_checkpointing=checkpointing))
        logs.append(lines(paired_xl))
    assert len(logs[0]) == len(logs[1]) == 4 and logs[0][-1]["gradient_norm"] > 0
    for plain, checkpointed in zip(*logs, strict=True):
        assert plain == pytest.approx(checkpointed, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_compiled_training_learns_the_same_and_saves_the_same_names(
    paired: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch, lora: Any
) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    file = "model/pytorch_lora_weights.safetensors" if lora else f"model/{UNET}"
    training.run(with_training(paired, make_recipe, lora=lora))
    plain, before = lines(paired), load_file(paired.run.path / file)
    training.run(with_training(paired, make_recipe, lora=lora, compile=True, gradient_checkpointing=True))
    after = load_file(paired.run.path / file)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=2e-4) for name in before)
    assert [each["loss"] for each in lines(paired)] == pytest.approx([each["loss"] for each in plain], abs=1e-4)


def test_an_attention_without_a_gradient_is_for_drawing_alone(
    make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(catalog, "build", lambda kind, settings, defaults: asked.update(settings))
    monkeypatch.setattr(training, "list_missing", lambda model: [])
    for chosen, taken in (("sage_hub", None), ("flash", "flash"), (None, None)):
        training._load_denoiser(
            make_recipe(model={"type": "flux", "path": "a/b", "attention": chosen, "compile": True, "offload": True})
        )
        assert (asked["attention"], asked["compile"], asked["offload"]) == (taken, False, False)


def test_loras_to_draw_with_are_no_part_of_what_is_trained(paired: Context) -> None:
    generator = paired.recipe.model
    added = generator.model_copy(update={"loras": (SamplingLora(path="some/lora"),)})
    training.run(replace(paired, recipe=paired.recipe.model_copy(update={"model": added})))
    assert (paired.run.path / "model" / UNET).is_file()


def test_the_model_card_tells_what_it_is_and_names_no_folder(paired: Context, make_recipe: Any) -> None:
    training.run(paired)
    card = (paired.run.path / "model" / "README.md").read_text()
    pairs = len(list(paired.run.rows("pairs")))
    assert f"of {pairs:,} pairs" in card and "| beta | 500.0 |" in card and "report.html" in card
    assert "from_pretrained" in card and "load_lora_weights" not in card
    training.run(with_training(paired, make_recipe, method={"type": "ipo", "beta": 500.0}, lora={"rank": 2}))
    adapted = (paired.run.path / "model" / "README.md").read_text()
    assert "trained by `ipo`" in adapted and "rank 2, alpha 2" in adapted and "load_lora_weights" in adapted
    assert str(paired.run.path.parent) not in card + adapted


def test_another_layout_of_the_same_strength(paired: Context, make_recipe: Any, tiny_generator: Path) -> None:
    """Each file by its own path through diffusers, with an alpha that isn't the rank."""
    training.run(with_training(paired, make_recipe, method={"beta": 500.0}, lora={"rank": 2, "alpha": 8.0}))
    model, outputs = paired.run.path / "model", []
    source = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 12, 16, generator=source)
    kohya = f"{paired.recipe.name}-kohya.safetensors"
    for name in (None, "pytorch_lora_weights.safetensors", kohya):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_generator, use_safetensors=True)
        if name is not None:
            pipeline.load_lora_weights(model, weight_name=name)
        with torch.no_grad():
            outputs.append(pipeline.unet(noisy, torch.tensor([10, 700]), text).sample)
    base, peft, other = outputs
    assert (peft - base).abs().max() > 1e-4
    torch.testing.assert_close(other, peft, rtol=0, atol=1e-7)
    with safe_open(model / kohya, framework="pt") as file:
        assert file.metadata()["modelspec.sai_model_spec"] == "1.0.0"
        assert file.metadata()["modelspec.prediction_type"] == "epsilon"
        assert {file.get_tensor(key).item() for key in file.keys() if key.endswith(".alpha")} == {2.0}  # noqa: SIM118


OPTIONS = {"accumulate": 2, "gradient_checkpointing": True, "ema": 0.9, "caption_dropout": 0.5, "min_snr_gamma": 5.0}


@pytest.mark.long
@pytest.mark.parametrize("method", ["ipo", "hinge"])
def test_all_options_together_make_a_model(
    paired: Context, make_recipe: Any, tiny_generator: Path, method: str
) -> None:
    notes = training.run(with_training(paired, make_recipe, method={"type": method, "beta": 500.0}, **OPTIONS))
    before, after = load_file(tiny_generator / UNET), load_file(paired.run.path / "model" / UNET)
    assert before.keys() == after.keys() and any(not before[key].equal(after[key]) for key in before)
    assert notes["steps"] == 4


def test_what_cant_be_is_told_before_anything_is_encoded(paired: Context, make_recipe: Any) -> None:
    with pytest.raises(RecipeError, match="fp16 needs an accelerator"):
        training.run(with_training(paired, make_recipe, precision="fp16"))
    assert not (paired.run.path / "training" / "images.safetensors").exists()


def test_tensorboard_is_told_each_step(paired: Context, make_recipe: Any) -> None:
    pytest.importorskip("tensorboard")
    training.run(with_training(paired, make_recipe, trackers=["tensorboard"]))
    assert list((paired.run.path / "training" / "trackers").rglob("events.out.tfevents.*"))


def test_killed_between_training_and_saving_it_only_saves(paired: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "replace_folder", killed)
        training.run(paired)
    before = lines(paired)
    monkeypatch.setattr("agfsync.stages.training_data._encode_images", killed)
    notes = training.run(paired)
    assert lines(paired) == before and (paired.run.path / "model" / UNET).is_file()
    assert notes[EARLIER] == notes["step_seconds"] > 0


class Stopping(SilentProgress):
    """Stops at the given step, counted from where the training goes on."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, count: int = 1, **figures: float) -> None:
        self.steps -= "loss" in figures
        if not self.steps:
            raise KeyboardInterrupt


@pytest.mark.long
def test_stopped_at_every_step_it_makes_the_same_model(paired: Context, make_recipe: Any) -> None:
    """With images that its own VAE has encoded, which a resume finds in a file."""
    context = with_training(paired, make_recipe, **OPTIONS)
    folder = context.run.path
    training.run(context)
    expected, curve = load_file(folder / "model" / UNET), lines(context)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "training")
    for step, done in ((1, 0), (2, 0), (3, 2), (4, 2)):
        with pytest.raises(KeyboardInterrupt):
            training.run(replace(context, progress=Stopping(step - done)))
        assert not (folder / "model").exists()
    training.run(context)
    found = load_file(folder / "model" / UNET)
    assert lines(context) == curve
    assert all(found[name].equal(expected[name]) for name in expected)


def test_another_training_replaces_the_model(paired: Context, make_recipe: Any) -> None:
    training.run(paired)
    first, before = load_file(paired.run.path / "model" / UNET), lines(paired)
    training.run(with_training(paired, make_recipe, learning_rate=5e-3))
    second = load_file(paired.run.path / "model" / UNET)
    assert any(not first[name].equal(second[name]) for name in first)
    assert lines(paired)[-1] != before[-1]
    assert [path.name for path in paired.run.path.glob("model*")] == ["model"]


def test_fewer_pairs_a_step_than_processes_are_told_at_once(paired: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.engine.launcher.count_processes", lambda: 4)
    with pytest.raises(RecipeError, match="training.batch 3 is too small for 4 processes"):
        training.run(paired)
    assert not (paired.run.path / "training").exists()


def test_without_pairs_it_says_so(paired: Context) -> None:
    paired.run.select("pairs", [])
    with pytest.raises(RunError, match="no pairs to train on"):
        training.run(paired)


def test_a_generator_that_only_draws_cant_be_trained(context: Context) -> None:
    with pytest.raises(
        ModelError, match="type double draws and is scored, but can't be trained: it has no device, network"
    ):
        training.run(context)


def test_no_more_images_are_encoded_at_once_than_a_batch_has_pairs(
    paired: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = LatentDiffusion.encode_images
    monkeypatch.setattr(
        LatentDiffusion, "encode_images", lambda self, images: seen.append(len(images)) or encode(self, images)
    )
    training.run(paired)
    assert max(seen) == SHORT["batch"]


def test_images_that_do_not_fit_together_are_encoded_by_fewer(
    paired: Context, monkeypatch: pytest.MonkeyPatch, make_recipe: Any
) -> None:
    seen: list[int] = []
    encode = LatentDiffusion.encode_images

    def cramped(self: LatentDiffusion, images: Any) -> Any:
        seen.append(len(images))
        if len(images) > 1:
            raise RuntimeError("CUDA out of memory")
        return encode(self, images)

    monkeypatch.setattr(LatentDiffusion, "encode_images", cramped)
    training.run(paired)
    distinct = len({row[side] for row in paired.run.rows("pairs", ["winner_key", "loser_key"]) for side in row})
    assert SHORT["batch"] > 1 and sorted(seen) == [1] * distinct + seen[:1]
    assert "training: encoding" in (paired.run.path / "memory.json").read_text()


def test_the_card_names_networks_of_the_base_from_elsewhere_and_no_path(make_recipe: Any, tmp_path: Path) -> None:
    plain = training._list_settings(make_recipe(model={}))
    generator = {"unet": "some/unet", "vae": {"path": str(tmp_path)}}
    told = training._list_settings(make_recipe(model=generator))
    assert told.items() - plain.items() == {("UNet of the base", "some/unet"), ("VAE of the base", tmp_path.name)}


def test_training_has_the_denoiser_alone_in_memory(
    paired_xl: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step nothing but the network has weights; with the pairs encoded, text encoders aren't even read."""
    context = with_training(paired_xl, make_recipe, lora={"rank": 2})
    read, loaded = list[str](), list[set[str]]()
    load, step = loading.load_part, loop._run_step

    def load_and_note(kind: Any, folder: Path, *rest: Any) -> Any:
        read.append(folder.name)
        return load(kind, folder, *rest)

    def step_and_count(state: Any, *rest: Any) -> Any:
        parts = state.actor.model._encoders._networks
        loaded.append({name for name, part in parts.items() if any(not p.is_meta for p in part.parameters())})
        return step(state, *rest)

    monkeypatch.setattr(loading, "load_part", load_and_note)
    monkeypatch.setattr(loop, "_run_step", step_and_count)
    training.run(context)
    assert sorted(read) == ["text_encoder", "text_encoder_2", "unet", "vae"] and loaded == [set()] * 4
    weights = load_file(context.run.path / "model" / "pytorch_lora_weights.safetensors")
    shutil.rmtree(context.run.path / "training" / "checkpoints")
    read.clear()
    training.run(context)
    again = load_file(context.run.path / "model" / "pytorch_lora_weights.safetensors")
    assert sorted(read) == ["unet", "vae"] and all(again[name].equal(weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("kind", "lora", "precision", "dtype"),
    [
        ("flux", True, "bf16", "bf16"),
        ("flux", True, "fp16", "fp16"),
        ("flux", True, "fp32", "fp32"),
        ("flux", False, "bf16", "fp32"),
        ("stable-diffusion", True, "bf16", "fp32"),
    ],
)
def test_a_flow_is_loaded_in_the_precision_of_the_training_where_its_weights_are_frozen(
    make_recipe: Any, monkeypatch: pytest.MonkeyPatch, kind: str, lora: bool, precision: str, dtype: str
) -> None:
    """A UNet's weights are rounded when it is loaded, those that autocast rounds; new weights are float32 always."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(catalog, "build", lambda kind, settings, defaults: asked.update(settings))
    monkeypatch.setattr(training, "list_missing", lambda model: [])
    changes = SHORT | {"precision": precision, "lora": {"rank": 2} if lora else None}
    training._load_denoiser(make_recipe(model={"type": kind, "path": "a/b"}, training=changes), None)
    assert (asked["dtype"], asked["lazy"], asked["loras"]) == (dtype, True, ())
