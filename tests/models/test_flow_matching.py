"""Random models of Stable Diffusion 3 and FLUX, saved and loaded as the big ones are."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FluxPipeline, StableDiffusion3Pipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor

from agfsync import catalog
from agfsync.errors import ModelError, RecipeError
from agfsync.models import Generator
from agfsync.models.architecture import TEXT_STATES
from agfsync.models.dtypes import DTYPES, Precision
from agfsync.models.flow_matching import POOLED_PROJECTIONS
from agfsync.training import DiffusionModel
from agfsync.training.lora import adapter_weights, add_adapters
from agfsync.training.trainable import list_missing, list_missing_of_class

PROMPTS = ["a red circle left of a blue star", "two small green squares", "a large yellow ring on grey"]
KINDS = {
    "sd3": ("stable-diffusion-3", StableDiffusion3Pipeline, 3.0),
    "sd3-without-t5": ("stable-diffusion-3", StableDiffusion3Pipeline, 3.0),
    "dev": ("flux", FluxPipeline, 3.5),
    "schnell": ("flux", FluxPipeline, 0.0),
}
"""Type, pipeline and guidance."""
TOKENS = {"sd3": 12 + 256, "sd3-without-t5": 12 + 256, "dev": 512, "schnell": 256}
SIZE = {"height": 16, "width": 24}


@pytest.fixture(scope="module")
def folders(
    tiny_sd3_generator: Path, tiny_flux_generator: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    from tiny_diffusion import flux_pipeline, sd3_pipeline

    others = tmp_path_factory.mktemp("others")
    sd3_pipeline(t5=False).save_pretrained(others / "sd3-without-t5")
    flux_pipeline(guidance=False).save_pretrained(others / "schnell")
    names = ("sd3-without-t5", "schnell")
    return {"sd3": tiny_sd3_generator, "dev": tiny_flux_generator} | {name: others / name for name in names}


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sd3", "dev"])
def one_of_each(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(folders: dict[str, Path], name: str, **settings: Any) -> Any:
    kind, _, guidance = KINDS[name]
    common = {"type": kind, "path": str(folders[name]), "steps": 3, "guidance": guidance, "device": "cpu"}
    return catalog.build("models", common | SIZE | settings)


def theirs(folders: dict[str, Path], name: str) -> Any:
    absent = {f"{part}_3": None for part in ("text_encoder", "tokenizer")} if name == "sd3-without-t5" else {}
    pipeline = KINDS[name][1].from_pretrained(folders[name], use_safetensors=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def distance(some: Any, others: Any) -> int:
    """The largest difference of any pixel, on 0..255."""
    pairs = zip(some, others, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


def latents_of(generator: Any, monkeypatch: pytest.MonkeyPatch, *drawing: Any) -> Tensor:
    """What a drawing gives to the VAE."""
    seen: list[Tensor] = []
    decode = generator._latents.decode
    monkeypatch.setattr(generator._latents, "decode", lambda latents, *told: seen.append(latents) or decode(latents))
    generator.draw(*drawing)
    return seen[0]


def test_is_a_generator_that_can_be_trained(folders: dict[str, Path], name: str) -> None:
    generator: Generator = load(folders, name)
    assert isinstance(generator, DiffusionModel)
    assert list_missing(generator) == list_missing_of_class(type(generator)) == []
    assert generator.schedule.prediction_type == "velocity"


def test_training_predicts_as_drawing_does(folders: dict[str, Path], name: str) -> None:
    generator = load(folders, name)
    source = torch.Generator().manual_seed(1)
    noisy, times = torch.randn(2, 16, 8, 12, generator=source), torch.tensor([0.25, 0.5])
    told = generator.encode_prompts(PROMPTS[:2])
    with torch.no_grad():
        together = generator.predict(generator.network, noisy, times, told)
        for row in range(2):
            alone = {key: each[row, None] for key, each in told.items()}
            drawn = generator._predict(noisy[row, None], 1000 * times[row], alone)
            torch.testing.assert_close(together[row, None], drawn, rtol=1e-4, atol=1e-5)


def test_a_flow_is_shifted_in_training_as_in_drawing(folders: dict[str, Path]) -> None:
    """4 x 6 tokens are fewer than the 256 that FLUX's shift begins at; SD3's shift is 3 whatever the size."""
    sd3, dev, schnell = (load(folders, name).schedule for name in ("sd3", "dev", "schnell"))
    assert sd3._compute_shift() == 3.0 and schnell._compute_shift() == 1.0
    assert dev.tokens == 24 and dev._compute_shift() == pytest.approx(np.exp(0.5 + (24 - 256) * 0.65 / 3840))
    assert (sd3.sampling, dev.sampling) == ("logit-normal", "uniform")
    assert load(folders, "sd3", training_times="uniform").schedule.sampling == "uniform"


def test_what_was_trained_is_saved_and_drawn_with(folders: dict[str, Path], one_of_each: str, tmp_path: Path) -> None:
    """Whole, and as a LoRA on the base: by this package and by diffusers."""
    base, trained = load(folders, one_of_each), load(folders, one_of_each)
    add_adapters(trained.network, 2, 4, 0, trained.adapter_targets)
    source = torch.Generator().manual_seed(9)
    for key, parameter in trained.network.named_parameters():
        if "lora_B" in key:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    trained.save_adapter(adapter_weights(trained.network, 2, 4), tmp_path / "lora")
    expected = trained.draw(PROMPTS[:1], [1], 0.0)
    assert distance(expected, base.draw(PROMPTS[:1], [1], 0.0)) > 1
    adapted = load(folders, one_of_each, adapter=tmp_path / "lora")
    assert distance(adapted.draw(PROMPTS[:1], [1], 0.0), expected) <= 1 and adapted.identity != base.identity
    pipeline = theirs(folders, one_of_each)
    pipeline.load_lora_weights(tmp_path / "lora")
    base._pipeline.transformer = pipeline.transformer
    assert distance(base.draw(PROMPTS[:1], [1], 0.0), expected) <= 1
    whole = load(folders, one_of_each)
    with torch.no_grad():
        for parameter in whole.network.parameters():
            parameter.add_(0.01)
    whole.save(tmp_path / "whole")
    again = load({one_of_each: tmp_path / "whole"}, one_of_each)
    assert distance(again.draw(PROMPTS[:1], [1], 0.0), whole.draw(PROMPTS[:1], [1], 0.0)) == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_image_depends_on_its_prompt_and_seed_and_not_on_its_batch(
    folders: dict[str, Path], name: str, dtype: str
) -> None:
    generator = load(folders, name, dtype=dtype)
    together = generator.draw([*PROMPTS, PROMPTS[0]], [1, 2, 3, 4], 0.1)
    alone = [generator.draw([prompt], [seed], 0.1)[0] for prompt, seed in zip(PROMPTS, (1, 2, 3), strict=True)]
    assert all(image.size == (24, 16) and image.mode == "RGB" for image in together)
    assert distance(together[:3], alone) <= (1 if dtype == "fp32" else 4)
    assert distance(together[:1], together[3:]) > 4
    assert distance(generator.draw([PROMPTS[1]], [1], 0.1), together[:1]) > 1


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_on_an_accelerator_the_weights_themselves_are_of_the_dtype(
    folders: dict[str, Path], name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU for an accelerator."""
    full = load(folders, name).draw(PROMPTS, [1, 2, 3], 0.1)
    monkeypatch.setattr(Precision, "weights", property(lambda self: self.dtype))
    monkeypatch.setattr(Precision, "autocast", lambda self: nullcontext())
    generator = load(folders, name, dtype=dtype)
    assert generator._pipeline.transformer.dtype == generator._pipeline.text_encoder.dtype == DTYPES[dtype]
    assert generator._pipeline.vae.dtype == (torch.float32 if dtype == "fp16" else torch.bfloat16)
    half = generator.draw(PROMPTS, [1, 2, 3], 0.1)
    assert np.abs(np.stack(half).astype(int) - np.stack(full)).mean() < 4


def test_images_of_one_process_and_the_next_are_equal(folders: dict[str, Path], name: str) -> None:
    assert distance(*(load(folders, name).draw(PROMPTS, [1, 2, 3], 0.1) for _ in range(2))) == 0


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_agrees_with_the_pipeline_of_diffusers(
    folders: dict[str, Path], name: str, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, pipeline, seeds = load(folders, name), theirs(folders, name), (5, 6)
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    clean = encode(pipeline, PROMPTS[:2], name)
    text, pooled = (t + sigma * torch.stack([torch.randn(t.shape[1:], generator=s) for s in sources]) for t in clean)
    start = torch.stack([torch.randn(16, 8, 12, generator=source) for source in sources])
    settings = {"num_inference_steps": 3, "guidance_scale": KINDS[name][2]} | SIZE
    embedded = {"prompt_embeds": text, "pooled_prompt_embeds": pooled}
    if KINDS[name][0] == "flux":
        embedded["latents"] = FluxPipeline._pack_latents(start, 2, 16, 8, 12)
    else:
        no_text, no_pooled = encode(pipeline, ["", ""], name)
        embedded |= {"latents": start, "negative_prompt_embeds": no_text, "negative_pooled_prompt_embeds": no_pooled}
    latents = pipeline(**embedded, **settings, output_type="latent").images
    if KINDS[name][0] == "flux":
        latents = FluxPipeline._unpack_latents(latents, *SIZE.values(), pipeline.vae_scale_factor)
    torch.testing.assert_close(
        latents_of(generator, monkeypatch, PROMPTS[:2], seeds, sigma), latents, rtol=1e-5, atol=1e-5
    )
    images = pipeline(**embedded, **settings).images
    assert distance(generator.draw(PROMPTS[:2], seeds, sigma), images) <= 1


def encode(pipeline: Any, prompts: list[str], name: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        if KINDS[name][0] == "flux":
            text, pooled, _ = pipeline.encode_prompt(prompts, None, max_sequence_length=TOKENS[name])
        else:
            text, _, pooled, _ = pipeline.encode_prompt(prompts, prompts, prompts, do_classifier_free_guidance=False)
    return text, pooled


def test_the_very_call_that_users_of_diffusers_make(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, pipeline = load(folders, name), theirs(folders, name)
    told = generator.encode_prompts(PROMPTS)
    assert {key: t.shape for key, t in told.items()} == {
        TEXT_STATES: (3, TOKENS[name], 32),
        POOLED_PROJECTIONS: (3, 16 if KINDS[name][0] == "flux" else 24),
    }
    flux = KINDS[name][0] == "flux"
    start = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("agfsync.models.flow_matching.draw_noise", lambda *_: start)
    packed = FluxPipeline._pack_latents(start, 1, 16, 8, 12) if flux else start
    settings = {"num_inference_steps": 3, "guidance_scale": KINDS[name][2], "latents": packed} | SIZE
    lengths = {"max_sequence_length": TOKENS[name]} if flux else {}
    assert distance(generator.draw(PROMPTS[:1], [1], 0.0), pipeline(PROMPTS[0], **settings, **lengths).images) <= 1


def test_the_tokens_of_t5s_text_are_those_of_the_setting(folders: dict[str, Path], name: str) -> None:
    shorter = load(folders, name, max_sequence_length=5)
    told, pipeline = shorter.encode_prompts(PROMPTS), theirs(folders, name)
    more = () if KINDS[name][0] == "flux" else (None,)
    with torch.no_grad():
        text = pipeline.encode_prompt(PROMPTS, None, *more, max_sequence_length=5)[0]
    assert torch.equal(told[TEXT_STATES], text)
    assert shorter.identity != load(folders, name).identity


def test_embedding_noise_comes_first_and_leaves_the_latents_and_no_prompt_alone(
    folders: dict[str, Path], one_of_each: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders, one_of_each)
    seen: list[tuple[Tensor, dict[str, Tensor]]] = []

    def predict(noisy: Tensor, timestep: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        seen.append((noisy, conditioning))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(generator, "_predict", predict)
    for sigma in (0.0, 0.1):
        generator.draw(PROMPTS[:2], [7, 8], sigma)
    (noisy, clean), (noisy_too, told) = seen[0], seen[3]
    assert torch.equal(noisy, noisy_too)
    source = torch.Generator().manual_seed(7)
    first = len(noisy) - 2
    for key in (TEXT_STATES, POOLED_PROJECTIONS):
        assert torch.equal(told[key][:first], clean[key][:first])
        expected = 0.1 * torch.randn(clean[key].shape[1:], generator=source)
        torch.testing.assert_close(told[key][first] - clean[key][first], expected)
    torch.testing.assert_close(noisy[first], torch.randn(16, 8, 12, generator=source))


def test_text_is_encoded_once_for_a_prompt(
    folders: dict[str, Path], one_of_each: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders, one_of_each)
    asked: list[list[str]] = []
    encode = generator.encode_prompts
    monkeypatch.setattr(generator, "encode_prompts", lambda prompts: asked.append(list(prompts)) or encode(prompts))
    generator.draw([PROMPTS[1]] * 3 + [PROMPTS[0]], [1, 2, 3, 4], 0.1)
    assert asked == [[PROMPTS[1], PROMPTS[0], ""]]


@pytest.mark.parametrize(
    ("name", "guidance", "rows"), [("sd3", 3.0, 6), ("sd3", 1.0, 3), ("dev", 3.5, 3), ("schnell", 0.0, 3)]
)
def test_the_whole_batch_is_predicted_at_once(folders: dict[str, Path], name: str, guidance: float, rows: int) -> None:
    generator = load(folders, name, guidance=guidance)
    seen: list[int] = []
    generator._pipeline.transformer.register_forward_hook(lambda _, __, output: seen.append(len(output.sample)))
    generator.draw(PROMPTS, [1, 2, 3], 0.1)
    assert seen == [rows] * 3


def test_guidance_changes_the_image_and_is_part_of_the_identity(folders: dict[str, Path], one_of_each: str) -> None:
    one, other = load(folders, one_of_each), load(folders, one_of_each, guidance=9.0)
    assert distance(one.draw(PROMPTS[:1], [1], 0.0), other.draw(PROMPTS[:1], [1], 0.0)) > 0
    assert one.identity != other.identity


def test_a_negative_prompt_is_what_guidance_leads_away_from(folders: dict[str, Path]) -> None:
    plain, away = load(folders, "sd3"), load(folders, "sd3", negative_prompt=PROMPTS[1])
    pipeline = theirs(folders, "sd3")
    source = torch.Generator().manual_seed(1)
    torch.randn(268, 32, generator=source), torch.randn(24, generator=source)
    start = torch.randn(1, 16, 8, 12, generator=source)
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "latents": start} | SIZE
    expected = pipeline(PROMPTS[0], negative_prompt=PROMPTS[1], **settings).images
    drawn = away.draw(PROMPTS[:1], [1], 0.0)
    assert distance(drawn, expected) <= 1 and distance(drawn, plain.draw(PROMPTS[:1], [1], 0.0)) > 1


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("sd3", {"negative_prompt": "blurry", "guidance": 1.0}, "raise it above 1 or leave out negative_prompt"),
        ("dev", {"negative_prompt": "blurry"}, "flux has its guidance built in, .* leave out negative_prompt"),
        ("schnell", {"guidance": 3.5}, r"\(schnell\) takes no guidance: set guidance to 1, not 3.5"),
        ("sd3", {"scheduler": "ddim"}, "stable-diffusion-3 .* set its scheduler to model, not ddim"),
        ("dev", {"scheduler": "euler"}, "flux .* set its scheduler to model, not euler"),
        ("sd3", {"height": 18}, "height must be a multiple of 4, got 18"),
        ("sd3", {"height": 68}, "height can be 64 at most, got 68"),
        ("dev", {"width": 18}, "width must be a multiple of 4, got 18"),
        ("sd3", {"config": "some/config"}, "a stable-diffusion-3 model has no config"),
        ("dev", {"refiner": {"path": "some/refiner", "from_step": 2}}, "a flux model has no refiner"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_line(
    folders: dict[str, Path], name: str, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises((ModelError, RecipeError), match=says) as caught:
        load(folders, name, **settings)
    assert "\n" not in str(caught.value)


def test_the_size_is_the_networks_unless_said_otherwise(folders: dict[str, Path]) -> None:
    assert load(folders, "sd3", height=None, width=None).draw(PROMPTS[:1], [1], 0.0)[0].size == (16, 16)
    assert load(folders, "dev", height=None, width=None)._size == (256, 256)


def test_a_scheduler_that_draws_noise_takes_it_from_the_images_seeds(folders: dict[str, Path]) -> None:
    generator = load(folders, "sd3")
    generator._scheduler.register_to_config(stochastic_sampling=True)
    together = generator.draw(PROMPTS, [1, 2, 3], 0.1)
    assert distance(generator.draw(PROMPTS[2:], [3], 0.1), together[2:]) <= 1


def test_latents_and_images_are_shifted_as_the_vae_says(folders: dict[str, Path]) -> None:
    generator = load(folders, "sd3")
    latents = generator.encode_images([Image.new("RGB", (24, 16), "red")])
    pixels = torch.full((1, 3, 16, 24), -1.0)
    pixels[:, 0] = 1
    with torch.no_grad():
        mean = generator._pipeline.vae.encode(pixels).latent_dist.mean
        torch.testing.assert_close(latents, (mean - 0.11) * 0.36)
        decoded = generator._pipeline.vae.decode(mean).sample[0].clamp(-1, 1)
    expected = Image.fromarray(((decoded + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8))
    assert distance(generator._latents.decode(latents), [expected]) <= 1


def test_the_vae_works_on_a_few_large_images_at_a_time(
    folders: dict[str, Path], one_of_each: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders, one_of_each)
    images = generator.draw(PROMPTS, [1, 2, 3], 0.1)
    monkeypatch.setattr("agfsync.models.latents.PIXELS_AT_ONCE", 2 * 16 * 24)
    rows: list[int] = []
    generator._pipeline.vae.decoder.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    assert distance(generator.draw(PROMPTS, [1, 2, 3], 0.1), images) <= 1
    assert rows == [2, 1]


@pytest.mark.parametrize(
    ("dtype", "upcast", "expected"), [("fp16", True, "fp32"), ("fp16", False, "fp16"), ("bf16", True, "bf16")]
)
def test_the_vae_runs_where_it_has_the_range(
    folders: dict[str, Path], one_of_each: str, dtype: str, upcast: bool, expected: str
) -> None:
    vae = SimpleNamespace(config=SimpleNamespace(force_upcast=upcast))
    architecture = load(folders, one_of_each)._family.architecture
    assert architecture.vae_dtype(vae, DTYPES[dtype]) == DTYPES[expected]


def test_identity_is_content_and_settings(folders: dict[str, Path], one_of_each: str, tmp_path: Path) -> None:
    copy = tmp_path / folders[one_of_each].name
    shutil.copytree(folders[one_of_each], copy)
    first, there = load(folders, one_of_each).identity, folders | {one_of_each: copy}
    assert load(there, one_of_each).identity == first
    assert load(there, one_of_each, steps=4).identity != first
    config = copy / "transformer" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert load(there, one_of_each).identity != first


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no model at"),
        (lambda folder: (folder / "model_index.json").unlink(), "can't load the model"),
        (lambda folder: _weights(folder).write_bytes(bytes(64)), "can't load the model"),
        (lambda folder: _pickle(folder), "can't load the model"),
        (
            lambda folder: shutil.rmtree(folder / "text_encoder_2"),
            "isn't there: its folder has no config.json",
        ),
        (lambda folder: _rename_class(folder), "is a StableDiffusionPipeline: the type .* needs a"),
        (
            lambda folder: _reschedule(folder),
            "its scheduler is a DDIMScheduler: a FlowMatchEulerDiscreteScheduler is needed",
        ),
    ],
)
def test_what_cant_be_loaded_is_said_in_a_line(
    folders: dict[str, Path], one_of_each: str, tmp_path: Path, spoil: Any, says: str
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(folders[one_of_each], folder)
    spoil(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load({one_of_each: folder}, one_of_each)
    assert "\n" not in str(caught.value)


def test_single_files_are_refused_in_a_line(one_of_each: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="is a single file: the type .* takes a folder or a hub id"):
        load({one_of_each: file}, one_of_each)


def test_a_lora_to_draw_with_is_as_strong_as_said(folders: dict[str, Path], one_of_each: str, tmp_path: Path) -> None:
    adapted = theirs(folders, one_of_each)
    adapted.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_v", "proj_out"]))
    source = torch.Generator().manual_seed(9)
    for key, parameter in adapted.transformer.named_parameters():
        if "lora" in key:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    adapted.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(adapted.transformer))
    base, fused = load(folders, one_of_each), load(folders, one_of_each, loras=[_lora(tmp_path, 1.0)])
    halves = load(folders, one_of_each, loras=[_lora(tmp_path, 0.5)] * 2)
    assert not any(isinstance(module, BaseTunerLayer) for module in fused._pipeline.transformer.modules())
    drawn = [each.draw(PROMPTS, [1, 2, 3], 0.1) for each in (base, fused, halves)]
    base._pipeline.transformer = adapted.transformer
    assert distance(drawn[1], base.draw(PROMPTS, [1, 2, 3], 0.1)) <= 1 < distance(drawn[0], drawn[1])
    assert distance(drawn[1], drawn[2]) <= 1
    assert len({each.identity for each in (base, fused, halves)}) == 3


def test_a_lora_reaches_the_text_encoder_too(folders: dict[str, Path], one_of_each: str, tmp_path: Path) -> None:
    adapted = theirs(folders, one_of_each)
    adapted.text_encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"], init_lora_weights=False))
    weights = get_peft_model_state_dict(adapted.text_encoder)
    adapted.save_lora_weights(tmp_path, text_encoder_lora_layers=weights)
    fused = load(folders, one_of_each, loras=[_lora(tmp_path, 1.0)])
    _, pooled = encode(adapted, PROMPTS, one_of_each)
    torch.testing.assert_close(fused.encode_prompts(PROMPTS)[POOLED_PROJECTIONS], pooled)
    assert not torch.allclose(load(folders, one_of_each).encode_prompts(PROMPTS)[POOLED_PROJECTIONS], pooled)


def test_a_lora_of_another_model_is_said_in_a_line(folders: dict[str, Path], tmp_path: Path) -> None:
    adapted = theirs(folders, "sd3")
    adapted.transformer.add_adapter(LoraConfig(r=2, target_modules=["attn2.to_q"]))
    adapted.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(adapted.transformer))
    with pytest.raises(ModelError) as caught:
        load(folders, "dev", loras=[_lora(tmp_path, 1.0)])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_t5s_tokenizer_needs_no_sentencepiece_where_its_json_is(folders: dict[str, Path], tmp_path: Path) -> None:
    """As in the published folders, which have both files."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders["dev"] / "tokenizer_2", folder)
    (folder / "spiece.model").write_bytes(b"never read")
    code = (
        "import sys; sys.modules |= {'sentencepiece': None, 'google.protobuf': None};"
        f"from transformers import T5TokenizerFast; t = T5TokenizerFast.from_pretrained({str(folder)!r});"
        "print(*t('a red circle').input_ids)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ids = load(folders, "dev")._pipeline.tokenizer_2("a red circle").input_ids
    assert done.stdout.split() == [str(number) for number in ids] and len(ids) == 4


def _lora(folder: Path, strength: float) -> dict[str, Any]:
    return {"path": str(folder), "strength": strength}


def _weights(folder: Path) -> Path:
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def _pickle(folder: Path) -> None:
    """Leaves the transformer's weights in a pickle file only."""
    torch.save({}, _weights(folder).with_suffix(".bin"))
    _weights(folder).unlink()


def _rename_class(folder: Path) -> None:
    _change_index(folder, {"_class_name": "StableDiffusionPipeline"})


def _reschedule(folder: Path) -> None:
    _change_index(folder, {"scheduler": ["diffusers", "DDIMScheduler"]})
    DDIMScheduler().save_pretrained(folder / "scheduler")


def _change_index(folder: Path, change: dict[str, Any]) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
