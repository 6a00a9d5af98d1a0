"""The type `stable-diffusion-xl`: SDXL's base, and whatever else is saved as a `StableDiffusionXLPipeline`.

Legend: U distinct prompts, T tokens, D width of both encoders' embeddings end to end, E width of the pooled one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from agfsync.files.images import measure_cut
from agfsync.models.architecture import TEXT, Architecture, Conditioning, Size, vae_dtype_in_range
from agfsync.models.latent_diffusion import LatentDiffusion
from agfsync.models.loading import quietly
from agfsync.models.refiner import Refiner
from agfsync.models.single_file import UNET, VAE
from agfsync.models.xl import POOLED, TIME_IDS, arguments, numbers, silenced

UNCROPPED = (0, 0)


def _encode(pipeline: Any, prompts: Sequence[str], size: Size, clip_skip: int | None = None) -> Conditioning:
    """Text (U, T, D), pooled (U, E), and time ids (U, 6), by the pipeline's own hand.

    The text is both encoders' last hidden states but one (but `clip_skip` more), end to end, or the second's alone
    where the model has no first; pooled is the second's projected embedding. The time ids are what the model was told
    of each picture in training: the size it had before it was scaled, the crop's top and left, and the size it has
    (SDXL, section 2.2). Pictures that it drew itself were never scaled nor cropped.
    """
    device = pipeline.text_encoder_2.device
    with quietly():
        text_UTD, _, pooled_UE, _ = pipeline.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance=False, clip_skip=clip_skip
        )
    text_UTD, pooled_UE = silenced(pipeline, prompts, text_UTD.float(), pooled_UE.float())
    time_ids = numbers([*size, *UNCROPPED, *size], device, len(prompts))
    return {TEXT: text_UTD, POOLED: pooled_UE, TIME_IDS: time_ids}


def _picture_conditioning(images: Sequence[Image.Image], size: Size) -> Conditioning:
    """Each picture's time ids (B, 6), on the CPU: the size that it came in, what fitting cuts off, and `size`.

    So a small or cut picture teaches to draw such a one, and doesn't spoil those that are asked for whole.
    """
    height, width = size
    rows = [[image.height, image.width, *measure_cut(image, width, height), *size] for image in images]
    return {TIME_IDS: torch.tensor(rows, dtype=torch.float32)}


ARCHITECTURE = Architecture(
    name="stable-diffusion-xl",
    pipeline=StableDiffusionXLPipeline,
    # The pooled embedding is as much a part of c as the others: one sigma for all. (The paper's scripts added noise of
    # unit variance to it, whatever sigma.) Sizes are no embedding, and take none.
    embeddings=(TEXT, POOLED),
    encode=_encode,
    arguments=arguments,
    vae_dtype=vae_dtype_in_range,
    extras={"add_watermarker": False},
    marker="conditioner.embedders.",
    prefixes={
        "unet": UNET,
        "vae": VAE,
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    picture_conditioning=_picture_conditioning,
    refiner=Refiner,
    latent_statistics=("latents_mean", "latents_std"),
    indexed=True,
)
StableDiffusionXL = partial(LatentDiffusion, ARCHITECTURE)
"""Takes the model and the keywords of `LatentDiffusion`."""
