"""A random SDXL, saved and loaded as the big one is. What all families share is tested on the other."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from agfsync.errors import ModelError
from agfsync.models import Generator
from agfsync.models.architecture import TEXT_STATES
from agfsync.models.latent_diffusion import LatentDiffusion
from agfsync.models.refiner import POOLED_TEXT, TIME_IDS
from agfsync.models.stable_diffusion_xl import XL_ARCHITECTURE, StableDiffusionXL
from agfsync.training import DiffusionModel

PROMPTS = ["a red circle left of a blue star", "two small green squares", "a large yellow ring on grey"]


@pytest.fixture(scope="module")
def generator(tiny_xl_generator: Path) -> LatentDiffusion:
    return StableDiffusionXL(str(tiny_xl_generator), steps=3, guidance=3.0, device="cpu")


def difference(some: Any, other: Any) -> int:
    return int(np.abs(np.asarray(some, int) - np.asarray(other, int)).max())


def test_is_a_generator_that_can_be_trained(generator: LatentDiffusion) -> None:
    drawing: Generator = generator
    assert isinstance(drawing, DiffusionModel)


def test_an_image_depends_on_its_prompt_and_seed_and_not_on_its_batch(generator: LatentDiffusion) -> None:
    together = generator.draw([*PROMPTS, PROMPTS[0]], [1, 2, 3, 4], 0.1)
    alone = [generator.draw([prompt], [seed], 0.1)[0] for prompt, seed in zip(PROMPTS, (1, 2, 3), strict=True)]
    assert all(difference(a, b) <= 1 for a, b in zip(together[:3], alone, strict=True))
    assert difference(together[0], together[3]) > 4


def test_agrees_with_the_pipeline_of_diffusers(generator: LatentDiffusion, tiny_xl_generator: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_xl_generator, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    source = torch.Generator().manual_seed(5)
    torch.randn(12, 24, generator=source), torch.randn(12, generator=source)
    latents = torch.randn(1, 4, 8, 8, generator=source)
    (theirs,) = pipeline(PROMPTS[0], latents=latents, num_inference_steps=3, guidance_scale=3.0).images
    assert difference(generator.draw([PROMPTS[0]], [5], 0.0)[0], theirs) <= 1


def test_conditioning_is_both_encoders_the_pooled_one_and_the_sizes(
    generator: LatentDiffusion, tiny_xl_generator: Path
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_xl_generator, use_safetensors=True)
    with torch.no_grad():
        text, no_text, pooled, no_pooled = pipeline.encode_prompt(PROMPTS)
    conditioning = generator.encode_prompts([*PROMPTS, ""])
    assert {name: tensor.shape for name, tensor in conditioning.items()} == {
        TEXT_STATES: (4, 12, 24),
        POOLED_TEXT: (4, 12),
        TIME_IDS: (4, 6),
    }
    torch.testing.assert_close(conditioning[TEXT_STATES], torch.cat([text, no_text[:1]]))
    torch.testing.assert_close(conditioning[POOLED_TEXT], torch.cat([pooled, no_pooled[:1]]))
    assert not conditioning[TEXT_STATES][3].any() and not conditioning[POOLED_TEXT][3].any()
    assert conditioning[TIME_IDS].tolist() == [[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 4


def test_sizes_are_told_in_pixels_height_first(tiny_xl_generator: Path) -> None:
    tall = StableDiffusionXL(str(tiny_xl_generator), steps=1, height=32, width=24, device="cpu")
    assert tall.encode_prompts([""])[TIME_IDS].tolist() == [[32.0, 24.0, 0.0, 0.0, 32.0, 24.0]]
    assert tall.draw([PROMPTS[0]], [1], 0.0)[0].size == (24, 32)


def test_of_each_image_the_network_is_told_its_size_and_what_was_cut_off(generator: LatentDiffusion) -> None:
    drawn, wide, tall = (Image.new("RGB", size) for size in ((16, 16), (64, 32), (8, 12)))
    told = generator.image_conditioning([drawn, wide, tall])
    assert told.keys() == {TIME_IDS} and told[TIME_IDS].dtype == torch.float32
    assert told[TIME_IDS].tolist() == [[16, 16, 0, 0, 16, 16], [32, 64, 0, 8, 16, 16], [12, 8, 4, 0, 16, 16]]
    assert torch.equal(told[TIME_IDS][:1], generator.encode_prompts(["a"])[TIME_IDS])


def test_one_sigma_for_every_embedding_and_no_noise_on_sizes_or_no_prompt(
    generator: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, Any]] = []

    def predict(network: Any, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        seen.append((noisy, conditioning))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(generator, "predict", predict)
    for sigma in (0.0, 0.1):
        generator.draw(PROMPTS[:2], [7, 8], sigma)
    (noisy, clean), (noisy_too, noised) = seen[0], seen[3]
    assert torch.equal(noisy, noisy_too)
    assert torch.equal(clean[TIME_IDS], noised[TIME_IDS])
    assert not noised[TEXT_STATES][:2].any() and not noised[POOLED_TEXT][:2].any()
    source = torch.Generator().manual_seed(7)
    for name, shape in ((TEXT_STATES, (12, 24)), (POOLED_TEXT, (12,))):
        expected = 0.1 * torch.randn(shape, generator=source)
        torch.testing.assert_close(noised[name][2] - clean[name][2], expected)


def test_saved_and_loaded_it_is_the_same(generator: LatentDiffusion, tiny_xl_generator: Path, tmp_path: Path) -> None:
    generator.save(tmp_path / "model")
    loaded = StableDiffusionXL(str(tmp_path / "model"), steps=3, guidance=3.0, device="cpu")
    assert difference(loaded.draw(PROMPTS[:1], [1], 0.1)[0], generator.draw(PROMPTS[:1], [1], 0.1)[0]) == 0


@pytest.mark.parametrize(
    ("dtype", "upcast", "expected"),
    [
        (torch.float16, True, torch.float32),
        (torch.float16, False, torch.float16),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float32, True, torch.float32),
    ],
)
def test_the_vae_runs_where_it_has_the_range(dtype: torch.dtype, upcast: bool, expected: torch.dtype) -> None:
    vae = SimpleNamespace(config=SimpleNamespace(force_upcast=upcast))
    assert XL_ARCHITECTURE.vae_dtype(vae, dtype) == expected


def test_another_kind_of_pipeline_is_said_in_a_line(tiny_generator: Path) -> None:
    with pytest.raises(ModelError, match="stable-diffusion-xl needs a StableDiffusionXLPipeline"):
        StableDiffusionXL(str(tiny_generator), device="cpu")
