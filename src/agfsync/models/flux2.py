"""The types `flux2`, FLUX.2 dev, and `flux2-klein`, base and distilled: diffusers' Flux2Pipeline, Flux2KleinPipeline.

Their networks and VAEs have the same classes. dev takes the guidance as an input of its network. dev's text encoder is
a Mistral, klein's a Qwen3.

Legend: N the network's tokens of an image, each one latent; T tokens of text.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT_STATES, Architecture, Conditioning, Size
from agfsync.models.flow_matching import (
    JOINT_ATTENTION,
    PATCH,
    TIMESTEPS,
    Family,
    FlowMatching,
    check_classifier_free,
    find_packed_sides,
    pack_tokens,
    unpack_tokens,
)
from agfsync.models.loading import silence_libraries


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Return the states of three of the language model's layers, concatenated (U, T, D), by the pipeline's method."""
    with silence_libraries():
        text_UTD, _ = pipeline.encode_prompt(list(prompts))
    return {TEXT_STATES: text_UTD.float()}


def _check_built_in(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    if negative_prompt:
        raise ModelError("flux2 has its guidance built in, away from no prompt: leave out negative_prompt")


def _check_settings(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    if pipeline.config.is_distilled and (guidance > 1 or negative_prompt):
        raise ModelError("this flux2-klein is distilled and takes no guidance: set guidance to 1, no negative_prompt")
    check_classifier_free(pipeline, guidance, negative_prompt)


def _shift_by_size(config: Any, tokens: int, steps: int) -> float | None:
    return compute_empirical_mu(tokens, steps) if config.use_dynamic_shifting else None


def _predict_packed(
    network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, arguments: dict[str, Any], guidance: float
) -> Tensor:
    """Return the velocity: image tokens have a row and a column, text tokens a number; dev also takes the guidance."""
    _, _, rows, columns = noisy_BCHW.shape
    device, tokens = noisy_BCHW.device, arguments["encoder_hidden_states"].shape[1]
    counts = {"img_ids": (1, rows, columns, 1), "txt_ids": (1, 1, 1, tokens)}
    ids = {
        name: torch.cartesian_prod(*(torch.arange(count, device=device) for count in axes))
        for name, axes in counts.items()
    }
    if network.config.guidance_embeds:
        arguments = {**arguments, "guidance": timesteps_B.new_full((len(timesteps_B),), guidance)}
    predicted_BNP = network(pack_tokens(noisy_BCHW, 1), timestep=timesteps_B / TIMESTEPS, **ids, **arguments).sample
    return unpack_tokens(predicted_BNP, noisy_BCHW, 1)


FLUX2_KLEIN_ARCHITECTURE = Architecture(
    name="flux2-klein",
    pipeline=Flux2KleinPipeline,
    encode=_encode_prompts,
    sides=find_packed_sides,
    latent_statistics=("batch_norm_eps",),
    latent_patch=PATCH,
    adapter_targets=(*JOINT_ATTENTION, "to_qkv_mlp_proj"),
)
FLUX2_ARCHITECTURE = replace(FLUX2_KLEIN_ARCHITECTURE, name="flux2", pipeline=Flux2Pipeline)
_KLEIN = Family(
    FLUX2_KLEIN_ARCHITECTURE,
    check=_check_settings,
    predict=_predict_packed,
    scale=lambda pipeline, guidance: 1.0 if pipeline.config.is_distilled else guidance,
    shift=_shift_by_size,
)
_DEV = replace(_KLEIN, architecture=FLUX2_ARCHITECTURE, check=_check_built_in, scale=lambda pipeline, guidance: 1.0)
Flux2, Flux2Klein = partial(FlowMatching, _DEV), partial(FlowMatching, _KLEIN)
"""They take the model and the keywords of `FlowMatching`."""
