"""The type `stable-diffusion`: 1.x, 2.x and every other model that is saved as a `StableDiffusionPipeline`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor

from agfsync.models.architecture import NETWORK_PREFIXES, TEXT_STATES, Architecture, Conditioning, Size
from agfsync.models.latent_diffusion import LatentDiffusion
from agfsync.models.loading import silence_libraries
from agfsync.models.single_file import MARKERS


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size, clip_skip: int | None = None) -> Conditioning:
    """Return the text encoder's last hidden states, or those of `clip_skip` layers before: (U, T, D).

    Never under autocast, since encoding takes little time.
    """
    if clip_skip:
        return {TEXT_STATES: _encode_with_clip_skip(pipeline, prompts, clip_skip).float()}
    with silence_libraries():
        text_UTD, _ = pipeline.encode_prompt(
            list(prompts), pipeline.text_encoder.device, 1, do_classifier_free_guidance=False
        )
    return {TEXT_STATES: text_UTD.float()}


def _encode_with_clip_skip(pipeline: Any, prompts: Sequence[str], clip_skip: int) -> Tensor:
    """Encode like diffusers' pipeline, which fails with transformers 5, where the encoder has no `text_model`."""
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).to(encoder.device)
    mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
    layers = encoder(tokens.input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    normalise = getattr(encoder, "text_model", encoder).final_layer_norm
    text_UTD: Tensor = normalise(layers[-(clip_skip + 1)])
    return text_UTD


SD_ARCHITECTURE = Architecture(
    name="stable-diffusion",
    pipeline=StableDiffusionPipeline,
    encode=_encode_prompts,
    vae_dtype=lambda vae, dtype: dtype,  # its VAE stays in fp16's range
    steerable=True,
    # Candidates are scored, not published.
    extras={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    marker=MARKERS["stable-diffusion"],
    prefixes={
        **NETWORK_PREFIXES,
        "text_encoder": ("cond_stage_model.transformer.", "cond_stage_model.model."),  # 1.x; 2.x
    },
)
StableDiffusion = partial(LatentDiffusion, SD_ARCHITECTURE)
"""Takes the model and the keywords of `LatentDiffusion`."""
