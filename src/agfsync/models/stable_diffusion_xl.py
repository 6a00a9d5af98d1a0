"""The type `stable-diffusion-xl`: SDXL's base and every other model that is saved as a `StableDiffusionXLPipeline`.

Legend: U distinct prompts, T tokens, D total width of both encoders' embeddings, E width of the pooled embedding.
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
    """Return text (U, T, D), pooled (U, E), and time ids (U, 6), from the pipeline's own method.

    The text is both encoders' second-to-last hidden states (`clip_skip` layers earlier), concatenated in D, or those of
    the second encoder if the model has no first; pooled is the second's projected embedding. In training, the time ids
    of an image are its size before scaling, the top and left of its crop, and its final size (SDXL, section 2.2).
    The values here are those of an image that the model draws: no scaling, no crop.
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

    With them, training on small or cropped images only affects the drawing of such images.
    """
    height, width = size
    rows = [[image.height, image.width, *measure_cut(image, width, height), *size] for image in images]
    return {TIME_IDS: torch.tensor(rows, dtype=torch.float32)}


XL_ARCHITECTURE = Architecture(
    name="stable-diffusion-xl",
    pipeline=StableDiffusionXLPipeline,
    # The pooled embedding is a part of c like the others: one sigma for all. (The paper's scripts add noise of unit
    # variance to it, whatever sigma.) Time ids are not embeddings, and get no noise.
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
