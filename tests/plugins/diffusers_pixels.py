"""An image by diffusers' own pipeline and by a generator of ours, of one folder, prompt and seed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from agfsync import catalog
from agfsync.models.loading import silence_libraries

PROMPT, SEED, STEPS, GUIDANCE = "a red circle left of a blue star", 5, 4, 3.0
PIPELINES = {"stable-diffusion": "StableDiffusionPipeline", "stable-diffusion-xl": "StableDiffusionXLPipeline"}
Edits = Mapping[str, Mapping[str, Any]]
"""by file: keys to set; None under a key is null in JSON"""


def are_same_pixels(one: Any, other: Any) -> bool:
    """Return True if two images differ by at most 1 of 255, which another order of sums makes."""
    return np.shape(one) == np.shape(other) and bool(np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1)


def edited(folder: Path, to: Path, edits: Edits, without: Mapping[str, list[str]] | None = None) -> Path:
    """Copy a pipeline's folder with keys of its files set, and others left out."""
    shutil.copytree(folder, to)
    for name in {*edits, *(without or {})}:
        path = to / name
        tree = json.loads(path.read_text()) | dict(edits.get(name, {}))
        for key in (without or {}).get(name, ()):
            tree.pop(key, None)
        path.write_text(json.dumps(tree))
    return to


def replaced(folder: Path, to: Path, name: str, part: Any) -> Path:
    """Copy a pipeline's folder with another part called `name`."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(name))
    part.save_pretrained(to / name)
    path = to / "model_index.json"
    index = json.loads(path.read_text())
    library = type(part).__module__.partition(".")[0]
    path.write_text(json.dumps(index | {name: [library, type(part).__name__]}))
    return to


def by_diffusers(type_: str, folder: Path, **settings: Any) -> np.ndarray:
    """Draw as `by_ours` does, with the same noise, by the pipeline of diffusers."""
    return drawn_by(theirs(type_, folder), type_, **settings)


def theirs(type_: str, folder: Path) -> Any:
    """Load a folder with the pipeline of diffusers."""
    with silence_libraries():
        pipeline = getattr(diffusers, PIPELINES[type_]).from_pretrained(folder, **SILENT[type_])
    pipeline.set_progress_bar_config(disable=True)
    if type_ == "stable-diffusion" and not hasattr(pipeline.text_encoder, "text_model"):
        # Its clip_skip asks for the encoder by the name that it had before transformers 5.
        pipeline.text_encoder.text_model = torch.nn.Module()
        pipeline.text_encoder.text_model.final_layer_norm = pipeline.text_encoder.final_layer_norm
    return pipeline


def drawn_by(pipeline: Any, type_: str, steps: int = STEPS, **settings: Any) -> np.ndarray:
    """Draw with a pipeline of diffusers from the noise that a generator of ours takes."""
    source = torch.Generator().manual_seed(SEED)
    for shape in _embeddings(pipeline, type_):
        torch.randn(shape, generator=source)
    size = settings.pop("size", (16, 16))
    scale = pipeline.vae_scale_factor
    channels = pipeline.vae.config.latent_channels
    latents = torch.randn(1, channels, size[0] // scale, size[1] // scale, generator=source)
    common = {"height": size[0], "width": size[1], "guidance_scale": GUIDANCE} | settings
    with silence_libraries():
        drawn = pipeline(PROMPT, latents=latents, generator=[source], num_inference_steps=steps, **common)
    return np.asarray(drawn.images[0], int)


SILENT: Mapping[str, Mapping[str, Any]] = {
    "stable-diffusion": {"safety_checker": None, "requires_safety_checker": False},
    "stable-diffusion-xl": {"add_watermarker": False},
}


def _embeddings(pipeline: Any, type_: str) -> list[tuple[int, ...]]:
    """The shapes of the conditioning that takes noise in a drawing of ours, before the latents take theirs."""
    if type_ == "stable-diffusion":
        with silence_libraries():
            text, _ = pipeline.encode_prompt([PROMPT], "cpu", 1, False)
        return [tuple(text.shape[1:])]
    with silence_libraries():
        text, _, pooled, _ = pipeline.encode_prompt([PROMPT], device="cpu", do_classifier_free_guidance=False)
    return [tuple(text.shape[1:]), tuple(pooled.shape[1:])]


def by_ours(type_: str, folder: Path, **settings: Any) -> np.ndarray:
    """Draw one image without embedding noise."""
    generator = ours(type_, folder, **settings)
    return np.asarray(generator.draw([PROMPT], [SEED], 0.0)[0], int)


def ours(type_: str, folder: Path, **settings: Any) -> Any:
    """Load a generator as a recipe would."""
    common = {"type": type_, "path": str(folder), "device": "cpu", "steps": STEPS, "guidance": GUIDANCE}
    return catalog.build("models", common | settings)
