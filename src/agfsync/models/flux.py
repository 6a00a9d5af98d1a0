"""The type `flux`: FLUX.1 dev and schnell, and whatever else is saved as a diffusers `FluxPipeline`.

Legend: N the network's tokens of a picture, each a patch of 2 x 2 latents; T tokens of text.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT, Architecture, Conditioning, Sides, Size, vae_dtype_in_range
from agfsync.models.flow_matching import JOINT_ATTENTION, POOLED, Family, FlowMatching, arguments
from agfsync.models.loading import quietly
from agfsync.models.single_file import UNET, VAE

PATCH = 2
TIMESTEPS = 1000
"""The network's timesteps are in 0..1."""
TOKENS, TOKENS_OF_SCHNELL = 512, 256
"""of text, that dev and schnell take at most (diffusers' documentation of the pipeline)"""


def _encode(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Text (U, T, D), T5's, and pooled (U, E), CLIP's, by the pipeline's own hand."""
    tokens = TOKENS if pipeline.transformer.config.guidance_embeds else TOKENS_OF_SCHNELL
    with quietly():
        text_UTD, pooled_UE, _ = pipeline.encode_prompt(list(prompts), max_sequence_length=tokens)
    return {TEXT: text_UTD.float(), POOLED: pooled_UE.float()}


def _sides(pipeline: Any) -> Sides:
    scale = pipeline.vae_scale_factor
    return Sides(scale * PATCH, pipeline.default_sample_size * scale)


def _check(config: Any, guidance: float, negative_prompt: str) -> None:
    if negative_prompt:
        raise ModelError("flux has its guidance built in, away from no prompt: leave out negative_prompt")
    if guidance > 1 and not config.guidance_embeds:
        raise ModelError(f"this flux (schnell) takes no guidance: set guidance to 1, not {guidance:g}")


def _predict(network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, told: dict[str, Any], guidance: float) -> Tensor:
    """Packs the latents into tokens and unpacks what comes; each token has its place, and the text's have none."""
    batch, _, height, width = noisy_BCHW.shape
    rows, columns = height // PATCH, width // PATCH
    axes = [torch.arange(count, device=noisy_BCHW.device) for count in (1, rows, columns)]
    predicted_BNP = network(
        pixel_unshuffle(noisy_BCHW, PATCH).flatten(2).transpose(1, 2),
        timestep=timesteps_B / TIMESTEPS,
        guidance=timesteps_B.new_full((batch,), guidance) if network.config.guidance_embeds else None,
        img_ids=torch.cartesian_prod(*axes),
        txt_ids=axes[0].new_zeros(told["encoder_hidden_states"].shape[1], len(axes)),
        **told,
    ).sample
    return pixel_shuffle(predicted_BNP.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


ARCHITECTURE = Architecture(
    name="flux",
    pipeline=FluxPipeline,
    # As with SDXL, one sigma for all that is an embedding.
    embeddings=(TEXT, POOLED),
    encode=_encode,
    arguments=arguments,
    vae_dtype=vae_dtype_in_range,
    sides=_sides,
    prefixes={"transformer": UNET, "vae": VAE},
    latent_statistics=("shift_factor",),
    adapter_targets=(*JOINT_ATTENTION, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)
FAMILY = Family(
    ARCHITECTURE,
    check=_check,
    predict=_predict,
    distilled=True,
    even_sigmas=True,
    training_times="uniform",
)
Flux = partial(FlowMatching, FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
