"""A random Stable Diffusion, saved and loaded as the big ones are."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from agfsync.errors import ModelError
from agfsync.models import Generator
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training import DiffusionModel

UNET = "unet/diffusion_pytorch_model.safetensors"
PROMPTS = ["a red circle left of a blue star", "two small green squares", "a large yellow ring on grey"]


def load(folder: Path, **settings: Any) -> StableDiffusion:
    return StableDiffusion(str(folder), **{"steps": 3, "guidance": 3.0, "device": "cpu"} | settings)


def distance(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> int:
    """The largest difference of any pixel, on 0..255."""
    pairs = zip(some, others, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


def test_is_a_generator_that_can_be_trained(tiny_generator: Path) -> None:
    generator: Generator = load(tiny_generator)
    assert isinstance(generator, DiffusionModel)


@pytest.mark.parametrize("scheduler", ["model", "ddim", "ddpm", "dpm++", "euler", "lcm"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_image_depends_on_its_prompt_and_seed_and_not_on_its_batch(
    tiny_generator: Path, scheduler: str, dtype: str
) -> None:
    generator = load(tiny_generator, scheduler=scheduler, dtype=dtype)
    together = generator.draw([*PROMPTS, PROMPTS[0]], [1, 2, 3, 4], 0.1)
    alone = [generator.draw([prompt], [seed], 0.1)[0] for prompt, seed in zip(PROMPTS, (1, 2, 3), strict=True)]
    assert all(image.size == (16, 16) and image.mode == "RGB" for image in together)
    assert distance(together[:3], alone) <= (1 if dtype == "fp32" else 4)
    assert distance(together[:1], together[3:]) > 4


def test_images_of_one_process_and_the_next_are_equal(tiny_generator: Path) -> None:
    assert distance(*(load(tiny_generator).draw(PROMPTS, [1, 2, 3], 0.1) for _ in range(2))) == 0


def test_embedding_noise_follows_from_the_seed_and_leaves_the_latents_alone(
    tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(tiny_generator)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def predict(network: Any, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        seen.append((noisy, next(iter(conditioning.values()))))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(generator, "predict", predict)
    for prompts, seeds, sigma in ((PROMPTS[:2], [7, 8], 0.0), (PROMPTS[:2], [7, 8], 0.1), (PROMPTS[1:2], [8], 0.1)):
        generator.draw(prompts, seeds, sigma)
    (noisy, text), (noisy_too, text_noised), (noisy_alone, text_alone) = seen[0], seen[3], seen[6]
    assert torch.equal(noisy, noisy_too) and torch.equal(noisy[3:], noisy_alone[1:])
    without, noised = text[2:], text_noised[2:]
    assert torch.equal(text[:2], text_noised[:2]), "the empty prompt's embedding takes no noise"
    torch.testing.assert_close(noised[1:] - without[1:], text_alone[1:] - without[1:])
    source = torch.Generator().manual_seed(7)
    expected = 0.1 * torch.randn(text.shape[1:], generator=source)
    torch.testing.assert_close(noised[0] - without[0], expected)
    torch.testing.assert_close(noisy[2], torch.randn(4, 8, 8, generator=source))


def test_text_is_encoded_once_for_a_prompt(tiny_generator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = load(tiny_generator)
    encoded: list[list[str]] = []
    encode = generator.encode_prompts
    monkeypatch.setattr(generator, "encode_prompts", lambda prompts: encoded.append(list(prompts)) or encode(prompts))
    generator.draw([PROMPTS[1]] * 3 + [PROMPTS[0]], [1, 2, 3, 4], 0.1)
    assert encoded == [[PROMPTS[1], PROMPTS[0], ""]]


def test_agrees_with_the_pipeline_of_diffusers(tiny_generator: Path) -> None:
    generator = load(tiny_generator, scheduler="ddim", steps=4)
    pipeline = generator._pipeline
    pipeline.scheduler = generator._scheduler
    pipeline.set_progress_bar_config(disable=True)
    source = torch.Generator().manual_seed(5)
    torch.randn(12, 16, generator=source)
    latents = torch.randn(1, 4, 8, 8, generator=source)
    theirs = pipeline(PROMPTS[0], latents=latents, num_inference_steps=4, guidance_scale=3.0).images
    assert distance(generator.draw([PROMPTS[0]], [5], 0.0), theirs) <= 1


def test_guidance_of_one_asks_for_no_second_prediction(tiny_generator: Path) -> None:
    generator = load(tiny_generator, guidance=1.0)
    rows: list[int] = []
    generator.network.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    generator.draw(PROMPTS, [1, 2, 3], 0.1)
    assert rows == [3, 3, 3]


def test_size(tiny_generator: Path) -> None:
    assert load(tiny_generator, height=32, width=24).draw(PROMPTS[:1], [1], 0.0)[0].size == (24, 32)
    with pytest.raises(ModelError, match="height must be a multiple of 2, got 31"):
        load(tiny_generator, height=31)


def test_latents_are_the_scaled_mean_of_the_posterior(tiny_generator: Path) -> None:
    generator = load(tiny_generator)
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    latents = generator.encode_images(images)
    assert latents.shape == (2, 4, 8, 8) and latents.dtype == torch.float32
    assert torch.equal(latents, generator.encode_images(images))
    pixels = torch.full((1, 3, 16, 16), -1.0)
    pixels[:, 0] = 1
    with torch.no_grad():
        expected = generator._pipeline.vae.encode(pixels).latent_dist.mean * 0.5
    torch.testing.assert_close(latents[:1], expected)


def test_images_of_other_sizes_are_fitted_to_the_generators_own(tiny_generator: Path) -> None:
    generator = load(tiny_generator, height=32, width=24)
    images = [Image.new("RGB", size, "red") for size in ((24, 32), (100, 50))]
    latents = generator.encode_images(images)
    assert latents.shape == (2, 4, 16, 12)
    torch.testing.assert_close(latents[0], latents[1])


def test_the_vae_works_on_a_few_large_images_at_a_time(tiny_generator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = load(tiny_generator)
    images = generator.draw(PROMPTS, [1, 2, 3], 0.1)
    latents = generator.encode_images(images)
    monkeypatch.setattr("agfsync.models.latents.PIXELS_AT_ONCE", 2 * 16 * 16)
    rows: list[int] = []
    generator._pipeline.vae.encoder.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    generator._pipeline.vae.decoder.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    assert distance(generator.draw(PROMPTS, [1, 2, 3], 0.1), images) <= 1
    torch.testing.assert_close(generator.encode_images(images), latents)
    assert rows == [2, 1, 2, 1]


def test_saved_and_loaded_it_is_the_same(tiny_generator: Path, tmp_path: Path) -> None:
    generator = load(tiny_generator)
    generator.save(tmp_path / "model")
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in {".bin", ".pt", ".ckpt"}]
    loaded = load(tmp_path / "model")
    assert distance(loaded.draw(PROMPTS, [1, 2, 3], 0.1), generator.draw(PROMPTS, [1, 2, 3], 0.1)) == 0


def test_identity_is_content_and_settings(tiny_generator: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_generator.name
    shutil.copytree(tiny_generator, copy)
    first = load(tiny_generator).identity
    assert load(copy).identity == first
    assert load(copy, guidance=2.0).identity != first
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert load(copy).identity != first


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no model at"),
        (lambda folder: (folder / "model_index.json").unlink(), "can't load the model"),
        (lambda folder: (folder / UNET).write_bytes(bytes(64)), "can't load the model"),
        (lambda folder: (folder / UNET).unlink(), "can't load the model"),
        (lambda folder: _pickle(folder), "can't load the model"),
        (lambda folder: _rename_class(folder, "StableDiffusionXLPipeline"), "is a StableDiffusionXLPipeline"),
    ],
)
def test_what_cant_be_loaded_is_said_in_a_line(tiny_generator: Path, tmp_path: Path, spoil: Any, says: str) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny_generator, folder)
    spoil(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_adapter_is_said_in_a_line(tiny_generator: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter at"):
        load(tiny_generator, adapter=tmp_path)


def test_images_that_are_no_numbers_are_told_and_not_painted_black(tiny_generator: Path) -> None:
    with pytest.raises(ModelError, match=r"not numbers: its last latents already aren't \(float32\)") as caught:
        load(tiny_generator).decode_latents(torch.full((1, 4, 8, 8), torch.nan))
    assert "fp32" not in str(caught.value), "it is fp32"


def test_a_network_of_no_numbers_is_told_with_its_dtype_and_scheduler(tiny_generator: Path) -> None:
    generator = load(tiny_generator)
    with torch.no_grad():
        next(generator.network.parameters()).fill_(torch.nan)
    seen = r"last latents already aren't \(float32, DDPMScheduler, prediction_type epsilon\)"
    with pytest.raises(ModelError, match=seen):
        generator.draw(PROMPTS[:1], [1], 0.0)


def test_a_vae_of_no_numbers_is_told_apart_from_the_network(tiny_generator: Path) -> None:
    generator = load(tiny_generator)
    with torch.no_grad():
        next(generator._pipeline.vae.decoder.parameters()).fill_(torch.inf)
    with pytest.raises(ModelError, match="the latents are numbers and what the AutoencoderKL makes of them in float32"):
        generator.draw(PROMPTS[:1], [1], 0.0)


@pytest.mark.parametrize("failure", [KeyError("unet"), NotImplementedError(), OverflowError("int"), TypeError("x\ny")])
def test_whatever_a_model_raises_is_one_line(tiny_generator: Path, failure: Exception) -> None:
    generator = load(tiny_generator)

    def fail(*arguments: Any, **settings: Any) -> None:
        raise failure

    for part in (generator._pipeline.unet, generator._pipeline.vae.encoder):
        part.forward = fail
    for work in (
        lambda: generator.draw(PROMPTS[:1], [1], 0.0),
        lambda: generator.encode_images([Image.new("RGB", (16, 16))]),
    ):
        with pytest.raises(ModelError, match=f"{type(failure).__name__}") as caught:
            work()
        assert "\n" not in str(caught.value) and str(tiny_generator) in str(caught.value)


def test_weights_that_no_file_gave_are_said_in_a_line(tiny_generator: Path, tmp_path: Path) -> None:
    folder = tmp_path / "without"
    shutil.copytree(tiny_generator, folder)
    weights = load_file(folder / UNET)
    save_file(dict(list(weights.items())[1:]), folder / UNET)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("failure", [RuntimeError("CUDA out of memory. Tried"), MemoryError()])
def test_a_lack_of_memory_stays_one(tiny_generator: Path, failure: Exception) -> None:
    generator = load(tiny_generator)

    def fail(*arguments: Any, **settings: Any) -> None:
        raise failure

    generator._pipeline.unet.forward = fail
    with pytest.raises(type(failure)):
        generator.draw(PROMPTS[:1], [1], 0.0)


def _pickle(folder: Path) -> None:
    """Leaves the UNet's weights in a pickle file only."""
    torch.save(load_file(folder / UNET), (folder / UNET).with_suffix(".bin"))
    (folder / UNET).unlink()


def _rename_class(folder: Path, name: str) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": name}))
