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
"""the default number of tokens for T5 (diffusers' documentation of the pipeline)"""


def _encode_prompts(
    pipeline: Any, prompts: Sequence[str], size: Size, max_sequence_length: int = TOKENS_OF_T5
) -> Conditioning:
    """Return text (U, T, D) and pooled (U, E) embeddings, from the pipeline's own method.

    The text is both CLIPs' second-to-last hidden states, concatenated in D and padded with zeros to the width of T5's,
    which follow as more tokens; they are zeros if the model was saved without T5. The pooled embeddings are both CLIPs'
    projected embeddings.
    """
    with silence_libraries():
        text_UTD, _, pooled_UE, _ = pipeline.encode_prompt(
            list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
        )
    return {TEXT_STATES: text_UTD.float(), POOLED_PROJECTIONS: pooled_UE.float()}


def _find_sides(pipeline: Any) -> ImageSides:
    """Return the image sides: multiples of a token, a patch of latents; the position embeddings limit their number."""
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
    # One sigma for all embeddings, as in SDXL.
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
