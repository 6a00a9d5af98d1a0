"""The type `stable-diffusion-3`: 3 and 3.5, and whatever else is saved as a diffusers `StableDiffusion3Pipeline`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT, Architecture, Conditioning, Sides, Size, vae_dtype_in_range
from agfsync.models.flow_matching import JOINT_ATTENTION, POOLED, Family, FlowMatching, arguments
from agfsync.models.loading import quietly
from agfsync.models.single_file import UNET, VAE


def _encode(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Text (U, T, D) and pooled (U, E), by the pipeline's own hand.

    The text is both CLIPs' last hidden states but one, side by side and filled up with zeros to the width of T5's,
    which follow; zeros stand for a T5 that the model was saved without. Pooled are both CLIPs' projected embeddings.
    """
    texts = list(prompts)
    with quietly():
        text_UTD, _, pooled_UE, _ = pipeline.encode_prompt(texts, None, None, do_classifier_free_guidance=False)
    return {TEXT: text_UTD.float(), POOLED: pooled_UE.float()}


def _sides(pipeline: Any) -> Sides:
    """A token is a patch of latents, and there are embeddings for so many places."""
    config, scale = pipeline.transformer.config, pipeline.vae_scale_factor
    token = scale * config.patch_size
    return Sides(token, config.sample_size * scale, config.pos_embed_max_size * token)


def _check(config: Any, guidance: float, negative_prompt: str) -> None:
    if negative_prompt and guidance <= 1:
        raise ModelError(
            f"guidance {guidance:g} leads away from nothing: raise it above 1 or leave out negative_prompt"
        )


def _predict(network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, told: dict[str, Any], guidance: float) -> Tensor:
    predicted: Tensor = network(noisy_BCHW, timestep=timesteps_B, **told).sample
    return predicted


ARCHITECTURE = Architecture(
    name="stable-diffusion-3",
    pipeline=StableDiffusion3Pipeline,
    # As with SDXL, one sigma for all that is an embedding.
    embeddings=(TEXT, POOLED),
    encode=_encode,
    arguments=arguments,
    vae_dtype=vae_dtype_in_range,
    sides=_sides,
    prefixes={"transformer": UNET, "vae": VAE},
    latent_statistics=("shift_factor",),
    adapter_targets=JOINT_ATTENTION,
)
FAMILY = Family(
    ARCHITECTURE,
    check=_check,
    predict=_predict,
    distilled=False,
    even_sigmas=False,
    training_times="logit-normal",
)
StableDiffusion3 = partial(FlowMatching, FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
