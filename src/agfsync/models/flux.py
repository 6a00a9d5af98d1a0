"""The type `flux`: FLUX.1 dev and schnell, and every other model that is saved as a diffusers `FluxPipeline`.

Legend: N the network's tokens of an image, each 2 x 2 latents; T tokens of text.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT_STATES, Architecture, Conditioning, Size
from agfsync.models.flow_matching import (
    JOINT_ATTENTION,
    PATCH,
    POOLED_PROJECTIONS,
    TIMESTEPS,
    Family,
    FlowMatching,
    find_packed_sides,
    pack_tokens,
    transformer_arguments,
    unpack_tokens,
)
from agfsync.models.loading import silence_libraries

TEXT_TOKENS, TOKENS_OF_SCHNELL = 512, 256
"""the most tokens of text for dev and schnell (diffusers' documentation of the pipeline)"""


def _encode_prompts(
    pipeline: Any, prompts: Sequence[str], size: Size, max_sequence_length: int | None = None
) -> Conditioning:
    """Return T5's text states (U, T, D) and CLIP's pooled embeddings (U, E), from the pipeline's own method."""
    most = TEXT_TOKENS if pipeline.transformer.config.guidance_embeds else TOKENS_OF_SCHNELL
    with silence_libraries():
        text_UTD, pooled_UE, _ = pipeline.encode_prompt(list(prompts), max_sequence_length=max_sequence_length or most)
    return {TEXT_STATES: text_UTD.float(), POOLED_PROJECTIONS: pooled_UE.float()}


def _check_settings(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    if negative_prompt:
        raise ModelError("flux has its guidance built in, away from no prompt: leave out negative_prompt")
    if guidance > 1 and not pipeline.transformer.config.guidance_embeds:
        raise ModelError(f"this flux (schnell) takes no guidance: set guidance to 1, not {guidance:g}")


def _predict_packed(
    network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, arguments: dict[str, Any], guidance: float
) -> Tensor:
    """Return the velocity: pack the latents into tokens with positions, text tokens at 0, and unpack the prediction."""
    batch, _, height, width = noisy_BCHW.shape
    rows, columns = height // PATCH, width // PATCH
    axes = [torch.arange(count, device=noisy_BCHW.device) for count in (1, rows, columns)]
    predicted_BNP = network(
        pack_tokens(noisy_BCHW, PATCH),
        timestep=timesteps_B / TIMESTEPS,
        guidance=timesteps_B.new_full((batch,), guidance) if network.config.guidance_embeds else None,
        img_ids=torch.cartesian_prod(*axes),
        txt_ids=axes[0].new_zeros(arguments["encoder_hidden_states"].shape[1], len(axes)),
        **arguments,
    ).sample
    return unpack_tokens(predicted_BNP, noisy_BCHW, PATCH)


FLUX_ARCHITECTURE = Architecture(
    name="flux",
    pipeline=FluxPipeline,
    # One sigma for all embeddings, as in SDXL.
    embeddings=(TEXT_STATES, POOLED_PROJECTIONS),
    encode=_encode_prompts,
    arguments=transformer_arguments,
    sides=find_packed_sides,
    latent_statistics=("shift_factor",),
    adapter_targets=(*JOINT_ATTENTION, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)
_FAMILY = Family(
    FLUX_ARCHITECTURE,
    check=_check_settings,
    predict=_predict_packed,
    scale=lambda pipeline, guidance: 1.0,
    has_sequence_length=True,
)
Flux = partial(FlowMatching, _FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
