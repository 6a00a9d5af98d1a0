"""The type `stable-diffusion-xl`: SDXL's base, and whatever else is saved as a `StableDiffusionXLPipeline`.

Legend: U distinct prompts, T tokens, D width of both encoders' embeddings end to end, E width of the pooled one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from agfsync.generators.architecture import TEXT, Architecture, Conditioning, Size, token_ids
from agfsync.generators.latent_diffusion import LatentDiffusion

POOLED = "text_embeds_BE"
TIME_IDS = "time_ids_B6"


def _encode(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Text (U, T, D), pooled (U, E), and time ids (U, 6), as SDXL's pipeline makes them.

    The text is both encoders' last hidden states but one, end to end; pooled is the second's projected embedding.
    Where the pipeline's configuration says so, as SDXL's does, no prompt is zeros, for so the model was trained.
    """
    first, second = pipeline.text_encoder, pipeline.text_encoder_2
    one = first(token_ids(pipeline.tokenizer, prompts, first.device), output_hidden_states=True)
    two = second(token_ids(pipeline.tokenizer_2, prompts, second.device), output_hidden_states=True)
    text_UTD = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1).float()
    pooled_UE = two.text_embeds.float()
    if pipeline.config.force_zeros_for_empty_prompt:
        silent_U = torch.tensor([not prompt for prompt in prompts], device=text_UTD.device)
        text_UTD = text_UTD.masked_fill(silent_U[:, None, None], 0)
        pooled_UE = pooled_UE.masked_fill(silent_U[:, None], 0)
    return {TEXT: text_UTD, POOLED: pooled_UE, TIME_IDS: time_ids(size, size, pooled_UE.device).repeat(len(prompts), 1)}


def time_ids(original: Size, target: Size, device: torch.device, crop: Size = (0, 0)) -> Tensor:
    """What the model was told of each picture in training, float32 (1, 6), in pixels.

    That is the size it had before it was scaled, the crop's top and left, and the size it has (SDXL, section 2.2).
    Pictures that it drew itself were never scaled nor cropped.
    """
    return torch.tensor([[*original, *crop, *target]], dtype=torch.float32, device=device)


def _arguments(conditioning: Conditioning) -> dict[str, Any]:
    added = {"text_embeds": conditioning[POOLED], "time_ids": conditioning[TIME_IDS]}
    return {"encoder_hidden_states": conditioning[TEXT], "added_cond_kwargs": added}


def _vae_dtype(vae: Any, dtype: torch.dtype) -> torch.dtype:
    """fp32 in fp16's place, which SDXL's own VAE overflows; one that is mended for fp16 says so. bf16 has the range."""
    return torch.float32 if dtype == torch.float16 and vae.config.force_upcast else dtype


ARCHITECTURE = Architecture(
    name="stable-diffusion-xl",
    pipeline=StableDiffusionXLPipeline,
    # The pooled embedding is as much a part of c as the others: one sigma for all. (The paper's scripts added noise of
    # unit variance to it, whatever sigma.) Sizes are no embedding, and take none.
    embeddings=(TEXT, POOLED),
    encode=_encode,
    arguments=_arguments,
    vae_dtype=_vae_dtype,
    extras={"add_watermarker": False},
    marker="conditioner.embedders.",
)
StableDiffusionXL = partial(LatentDiffusion, ARCHITECTURE)
"""Takes the model and the keywords of `LatentDiffusion`."""
