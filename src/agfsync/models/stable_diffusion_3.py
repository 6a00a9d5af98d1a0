"""The type `stable-diffusion-3`: 3, 3.5 and every other model that is saved as a `StableDiffusion3Pipeline`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from agfsync.models.architecture import TEXT_STATES, Architecture, Conditioning, ImageSides, Size
from agfsync.models.flow_matching import (
    JOINT_ATTENTION,
    POOLED_PROJECTIONS,
    Family,
    FlowMatching,
    check_classifier_free,
    transformer_arguments,
)
from agfsync.models.loading import silence_libraries

TOKENS_OF_T5 = 256
"""the tokens of T5's text, by default (diffusers' documentation of the pipeline)"""


def _encode_prompts(
    pipeline: Any, prompts: Sequence[str], size: Size, max_sequence_length: int = TOKENS_OF_T5
) -> Conditioning:
    """Return text (U, T, D) and pooled (U, E) embeddings, by the pipeline's own method.

    The text is both CLIPs' last hidden states but one, side by side and filled up with zeros to the width of T5's,
    which follow; zeros stand for a T5 that the model was saved without. Pooled are both CLIPs' projected embeddings.
    """
    with silence_libraries():
        text_UTD, _, pooled_UE, _ = pipeline.encode_prompt(
            list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
        )
    return {TEXT_STATES: text_UTD.float(), POOLED_PROJECTIONS: pooled_UE.float()}


def _find_sides(pipeline: Any) -> ImageSides:
    """Return the sizes: a token is a patch of latents, and there are embeddings for so many positions."""
    config, scale = pipeline.transformer.config, pipeline.vae_scale_factor
    token = scale * config.patch_size
    return ImageSides(token, config.sample_size * scale, config.pos_embed_max_size * token)


def _predict_velocity(
    network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, arguments: dict[str, Any], guidance: float
) -> Tensor:
    predicted: Tensor = network(noisy_BCHW, timestep=timesteps_B, **arguments).sample
    return predicted


SD3_ARCHITECTURE = Architecture(
    name="stable-diffusion-3",
    pipeline=StableDiffusion3Pipeline,
    # As with SDXL, one sigma for all that is an embedding.
    embeddings=(TEXT_STATES, POOLED_PROJECTIONS),
    encode=_encode_prompts,
    arguments=transformer_arguments,
    sides=_find_sides,
    latent_statistics=("shift_factor",),
    adapter_targets=JOINT_ATTENTION,
)
_FAMILY = Family(
    SD3_ARCHITECTURE,
    check=check_classifier_free,
    predict=_predict_velocity,
    even_sigmas=False,
    training_times="logit-normal",
    has_sequence_length=True,
)
StableDiffusion3 = partial(FlowMatching, _FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
