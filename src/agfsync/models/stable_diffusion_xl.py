"""The type `stable-diffusion-xl`: SDXL's base and every other model that is saved as a `StableDiffusionXLPipeline`.

Legend: U distinct prompts, T tokens, D width of both encoders' embeddings end to end, E width of the pooled one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from agfsync.files.images import measure_cut
from agfsync.models.architecture import NETWORK_PREFIXES, TEXT_STATES, Architecture, Conditioning, Size
from agfsync.models.latent_diffusion import LatentDiffusion
from agfsync.models.loading import silence_libraries
from agfsync.models.refiner import POOLED_TEXT, TIME_IDS, Refiner, time_ids_of, xl_arguments, zero_empty_prompts
from agfsync.models.single_file import MARKERS

UNCROPPED = (0, 0)


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size, clip_skip: int | None = None) -> Conditioning:
    """Return text (U, T, D), pooled (U, E), and time ids (U, 6), by the pipeline's own method.

    The text is both encoders' last hidden states but one (but `clip_skip` more), end to end, or the second's alone
    where the model has no first; pooled is the second's projected embedding. The time ids are inputs of each
    image in training: the size it had before it was scaled, the crop's top and left, and the size it has
    (SDXL, section 2.2). Images that it drew itself were never scaled nor cropped.
    """
    device = pipeline.text_encoder_2.device
    with silence_libraries():
        text_UTD, _, pooled_UE, _ = pipeline.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance=False, clip_skip=clip_skip
        )
    text_UTD, pooled_UE = zero_empty_prompts(pipeline, prompts, text_UTD.float(), pooled_UE.float())
    time_ids = time_ids_of([*size, *UNCROPPED, *size], device, len(prompts))
    return {TEXT_STATES: text_UTD, POOLED_TEXT: pooled_UE, TIME_IDS: time_ids}


def _image_conditioning(images: Sequence[Image.Image], size: Size) -> Conditioning:
    """Return each image's time ids (B, 6), on the CPU: its original size, the crop's top and left, and `size`.

    So a small or cropped image teaches to draw such images, and doesn't spoil whole ones.
    """
    height, width = size
    rows = [[image.height, image.width, *measure_cut(image, width, height), *size] for image in images]
    return {TIME_IDS: torch.tensor(rows, dtype=torch.float32)}


XL_ARCHITECTURE = Architecture(
    name="stable-diffusion-xl",
    pipeline=StableDiffusionXLPipeline,
    # The pooled embedding is as much a part of c as the others: one sigma for all. (The paper's scripts added noise of
    # unit variance to it, whatever sigma.) Sizes are no embedding, and take none.
    embeddings=(TEXT_STATES, POOLED_TEXT),
    encode=_encode_prompts,
    arguments=xl_arguments,
    extras={"add_watermarker": False},
    marker=MARKERS["stable-diffusion-xl"],
    prefixes={
        **NETWORK_PREFIXES,
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    image_conditioning=_image_conditioning,
    refiner=Refiner,
    latent_statistics=("latents_mean", "latents_std"),
    indexed=True,
)
StableDiffusionXL = partial(LatentDiffusion, XL_ARCHITECTURE)
"""Takes the model and the keywords of `LatentDiffusion`."""
