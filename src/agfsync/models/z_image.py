"""The type `z-image`: Z-Image, its Turbo, and every other model that is saved as a diffusers `ZImagePipeline`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import ZImagePipeline
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import Architecture, Conditioning, ImageSides, Size
from agfsync.models.flow_matching import PATCH, TIMESTEPS, Family, FlowMatching, masked_text_arguments, pad_texts
from agfsync.models.loading import silence_libraries

_SIDE = 1024
"""the pipeline's default side of an image, in pixels"""
_TEXT_TOKENS = 512
"""the most tokens of text that diffusers' pipeline reads"""


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Return the language model's second-to-last hidden states, from the pipeline's own method, and their mask."""
    with silence_libraries():
        texts, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    return pad_texts(texts, _TEXT_TOKENS)


def _find_sides(pipeline: Any) -> ImageSides:
    return ImageSides(pipeline.vae_scale_factor * PATCH, _SIDE)


def _check_settings(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    if negative_prompt and guidance <= 0:
        raise ModelError("guidance 0 leads away from nothing: raise it or leave out negative_prompt")


def _predict_listed(
    network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, arguments: dict[str, Any], guidance: float
) -> Tensor:
    """Return the velocity: the network takes lists of images and texts; its time runs from 0 (noise) to 1 (clean)."""
    texts = [text_TD[mask_T] for text_TD, mask_T in zip(arguments["text"], arguments["mask"], strict=True)]
    predicted = network(list(noisy_BCHW.unsqueeze(2)), 1 - timesteps_B / TIMESTEPS, texts).sample
    return -torch.stack([each_CFHW.squeeze(1) for each_CFHW in predicted])


Z_IMAGE_ARCHITECTURE = Architecture(
    name="z-image",
    pipeline=ZImagePipeline,
    encode=_encode_prompts,
    arguments=masked_text_arguments,
    sides=_find_sides,
    latent_statistics=("shift_factor",),
)
_FAMILY = Family(
    Z_IMAGE_ARCHITECTURE,
    check=_check_settings,
    predict=_predict_listed,
    # diffusers adds guidance * difference to the prediction with the prompt: 0 means no guidance.
    scale=lambda pipeline, guidance: 1 + guidance,
)
ZImage = partial(FlowMatching, _FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
