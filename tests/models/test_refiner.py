"""A random refiner of the random SDXL."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT
from agfsync.models.xl import POOLED, TIME_IDS

PROMPTS = ["a red circle left of a blue star", "two small green squares"]


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_diffusion import refiner_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "refiner"
    refiner_pipeline().save_pretrained(folder)
    return folder


def build(model: Path, refiner: Path | None, from_step: int = 2, kind: str = "stable-diffusion-xl") -> Any:
    settings: dict[str, Any] = {"type": kind, "path": str(model), "steps": 4, "guidance": 3.0, "device": "cpu"}
    if refiner:
        settings["refiner"] = {"path": str(refiner), "revision": None, "from_step": from_step}
    return catalog.build("models", settings)


def pixels(images: Any) -> np.ndarray:
    return np.stack([np.asarray(image, int) for image in images])


def test_agrees_with_the_two_pipelines_of_diffusers(tiny_xl_generator: Path, refiner: Path) -> None:
    base = StableDiffusionXLPipeline.from_pretrained(tiny_xl_generator, use_safetensors=True)
    finish = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, use_safetensors=True)
    for pipeline in (base, finish):
        pipeline.set_progress_bar_config(disable=True)
    source = torch.Generator().manual_seed(5)
    torch.randn(12, 24, generator=source), torch.randn(12, generator=source)
    common = {"num_inference_steps": 4, "guidance_scale": 3.0}
    noise = torch.randn(1, 4, 8, 8, generator=source)
    # Of four steps two are above the middle of the thousand.
    begun = base(PROMPTS[0], latents=noise, denoising_end=0.5, output_type="latent", **common).images
    size = {"original_size": (16, 16), "target_size": (16, 16)}
    theirs = finish(PROMPTS[0], image=begun, denoising_start=0.5, **size, **common).images
    generator = build(tiny_xl_generator, refiner)
    ours = generator.draw(PROMPTS[:1], [5], 0.0)
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1
    assert np.abs(pixels(ours) - pixels(build(tiny_xl_generator, None).draw(PROMPTS[:1], [5], 0.0))).max() > 4


def test_takes_over_at_its_step_with_the_noise_that_the_base_saw(
    tiny_xl_generator: Path, refiner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build(tiny_xl_generator, refiner, from_step=3)
    calls: list[tuple[str, Any]] = []

    def spying(of: Any, name: str) -> None:
        predict = of.predict
        monkeypatch.setattr(of, "predict", lambda *given: calls.append((name, given[-1])) or predict(*given))

    spying(generator, "base")
    spying(generator._refiner, "refiner")
    generator.draw(PROMPTS, [1, 2], 0.1)
    assert [name for name, _ in calls] == ["base"] * 3 + ["refiner"]
    base, finish = calls[0][1], calls[-1][1]
    torch.testing.assert_close(finish[TEXT][2:], base[TEXT][2:, :, 16:])
    torch.testing.assert_close(finish[POOLED][2:], base[POOLED][2:])
    assert finish[TIME_IDS].tolist() == [[16.0, 16.0, 0.0, 0.0, 2.5]] * 2 + [[16.0, 16.0, 0.0, 0.0, 6.0]] * 2


def test_what_refines_is_part_of_the_identity(tiny_xl_generator: Path, refiner: Path) -> None:
    generators = [build(tiny_xl_generator, *of) for of in ((None,), (refiner, 2), (refiner, 3))]
    assert len({generator.identity for generator in generators}) == 3


def test_what_cant_be_refined_is_said_in_a_line(tiny_xl_generator: Path, tiny_generator: Path, refiner: Path) -> None:
    with pytest.raises(ModelError, match="can't begin at step 4: the generator has 4"):
        build(tiny_xl_generator, refiner, from_step=4)
    with pytest.raises(ModelError, match="of the type stable-diffusion has no refiner"):
        build(tiny_generator, refiner, kind="stable-diffusion")
    with pytest.raises(ModelError, match="refiner of stable-diffusion-xl needs a StableDiffusionXLImg2ImgPipeline"):
        build(tiny_xl_generator, tiny_xl_generator)
