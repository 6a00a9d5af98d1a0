"""The type `stable-diffusion`: 1.x and 2.x, and whatever else is saved as a diffusers `StableDiffusionPipeline`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from agfsync.generators.architecture import TEXT, Architecture, Conditioning, Size, token_ids
from agfsync.generators.latent_diffusion import LatentDiffusion
from agfsync.generators.single_file import UNET, VAE


def _encode(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """The text encoder's last hidden states, (U, T, D). Never under autocast: it is little work."""
    encoder = pipeline.text_encoder
    return {TEXT: encoder(token_ids(pipeline.tokenizer, prompts, encoder.device)).last_hidden_state.float()}


def _arguments(conditioning: Conditioning) -> dict[str, Any]:
    return {"encoder_hidden_states": conditioning[TEXT]}


def _vae_dtype(vae: Any, dtype: torch.dtype) -> torch.dtype:
    """Its VAE keeps to fp16's range."""
    return dtype


ARCHITECTURE = Architecture(
    name="stable-diffusion",
    pipeline=StableDiffusionPipeline,
    embeddings=(TEXT,),
    encode=_encode,
    arguments=_arguments,
    vae_dtype=_vae_dtype,
    # Candidates are scored, not published.
    extras={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    marker="cond_stage_model.",
    prefixes={
        "unet": UNET,
        "vae": VAE,
        "text_encoder": ("cond_stage_model.transformer.", "cond_stage_model.model."),  # 1.x; 2.x
    },
)
StableDiffusion = partial(LatentDiffusion, ARCHITECTURE)
"""Takes the model and the keywords of `LatentDiffusion`."""
