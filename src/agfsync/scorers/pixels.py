"""The preprocessing of transformers' image processors, on tensors and differentiable.

`score` gives the processors PIL images; a differentiable reward needs the same steps in torch. Pillow clamps colors to
0..255 and rounds them after each pass of a resize. This module also clamps after each pass, with a straight-through
gradient, but doesn't round: a network's inputs differ by at most two of the 255 levels of a color.

Shapes: B images, C 3, H W their pixels; N patches of D numbers.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

from agfsync.errors import ModelError
from agfsync.models.architecture import Size
from agfsync.models.latents import clamp_passing_gradient

RESAMPLING: Mapping[int, str] = {2: "bilinear", 3: "bicubic"}
"""Pillow's filters -> torch's, which have the same kernels with antialias (bicubic with a = -0.5)."""


class PixelProcessor:
    """The steps of the image `processor` of the model `name`: resize, centre crop and normalisation, or patches.

    Raises:
        ModelError: the processor has a step that isn't implemented here.
    """

    def __init__(self, processor: Any, name: str) -> None:
        if obstacle := _find_obstacle(processor):
            raise ModelError(
                f"{name} gives no gradient of its scores: its image processor, {type(processor).__name__}, {obstacle}; "
                f"take another scorer as reward, or a method that needs no gradient of it"
            )
        self._processor, self._mode = processor, RESAMPLING[int(processor.resample)]

    def __call__(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the network's inputs of RGB pixels in 0..1, (B, 3, H, W), as float32 on the pixels' device."""
        if isinstance(self._processor, Siglip2ImageProcessorPil):
            return self._cut_patches(pixels_BCHW.float())
        resized_BCHW = resize_pixels(pixels_BCHW.float(), self._choose_size(pixels_BCHW.shape[-2:]), self._mode)
        if self._processor.do_center_crop:
            resized_BCHW = _crop_centre(resized_BCHW, self._processor.crop_size)
        return {"pixel_values": self.standardise(resized_BCHW)}

    def _choose_size(self, size: torch.Size) -> Size:
        height, width = size
        wanted = self._processor.size
        if not self._processor.do_resize:
            return height, width
        if wanted.shortest_edge is None:
            return wanted.height, wanted.width
        short, long = sorted((height, width))
        longest = int(wanted.shortest_edge * long / short)
        return (longest, wanted.shortest_edge) if width <= height else (wanted.shortest_edge, longest)

    def standardise(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalise pixels in 0..1 by the processor's mean and standard deviation."""
        if not self._processor.do_normalize:
            return pixels_BCHW
        mean, std = (
            torch.as_tensor(values, dtype=torch.float32, device=pixels_BCHW.device).view(1, -1, 1, 1)
            for values in (self._processor.image_mean, self._processor.image_std)
        )
        return (pixels_BCHW - mean) / std

    def _cut_patches(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Return SigLIP 2's inputs: patches (B, N, D) padded with zeros, their mask, and their rows and columns."""
        side, most = self._processor.patch_size, self._processor.max_num_patches
        height, width = pixels_BCHW.shape[-2:]
        if self._processor.do_resize:
            height, width = get_image_size_for_max_num_patches(height, width, side, most)
        pixels_BCHW = self.standardise(resize_pixels(pixels_BCHW, (height, width), self._mode))
        # F.unfold orders a patch's numbers by color first, the network by pixel first.
        patches_BDN = F.unfold(pixels_BCHW, side, stride=side)
        patches_BND = patches_BDN.transpose(1, 2).unflatten(2, (3, -1)).transpose(2, 3).flatten(2)
        rows, count = len(pixels_BCHW), patches_BND.shape[1]
        mask_BN = (torch.arange(most, device=pixels_BCHW.device) < count).int().expand(rows, -1)
        shapes_B2 = torch.tensor([[height // side, width // side]], device=pixels_BCHW.device).expand(rows, -1)
        return {
            "pixel_values": F.pad(patches_BND, (0, 0, 0, most - count)),
            "pixel_attention_mask": mask_BN,
            "spatial_shapes": shapes_B2,
        }


def resize_pixels(pixels_BCHW: Tensor, size: Size, mode: str) -> Tensor:
    """Resize pixels in 0..1 to `size` as Pillow does: first the width, then the height, each clamped to 0..1.

    `mode` is "bilinear" or "bicubic". The gradient passes through the clamp unchanged.
    """
    for passed in ((pixels_BCHW.shape[-2], size[1]), size):
        if pixels_BCHW.shape[-2:] != passed:
            pixels_BCHW = clamp_passing_gradient(
                F.interpolate(pixels_BCHW, passed, mode=mode, align_corners=False, antialias=True)
            )
    return pixels_BCHW


def pad_pixels_to_square(pixels_BCHW: Tensor) -> Tensor:
    """Pad the images to squares with black."""
    height, width = pixels_BCHW.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(pixels_BCHW, (left, side - width - left, top, side - height - top))


def _crop_centre(pixels_BCHW: Tensor, crop: Any) -> Tensor:
    top, left = (pixels_BCHW.shape[-2] - crop.height) // 2, (pixels_BCHW.shape[-1] - crop.width) // 2
    return pixels_BCHW[..., top : top + crop.height, left : left + crop.width]


def _find_obstacle(processor: Any) -> str | None:
    """Describe the first step of `processor` that isn't implemented here; None if all are."""
    if processor.resample is None or int(processor.resample) not in RESAMPLING:
        return f"resamples by Pillow's filter {processor.resample}, and only bilinear and bicubic are known"
    if not processor.do_rescale or abs(255 * processor.rescale_factor - 1) > 1e-6:
        return "doesn't scale colors to 0..1"
    if isinstance(processor, Siglip2ImageProcessorPil):
        return None
    # A processor with other steps overrides this method.
    if getattr(type(processor), "_preprocess", None) is not PilBackend._preprocess or processor.do_pad:
        return "takes steps of its own"
    return _find_size_obstacle(processor)


def _find_size_obstacle(processor: Any) -> str | None:
    given = {name for name, value in dict(processor.size or {}).items() if value is not None}
    if processor.do_resize and given not in ({"shortest_edge"}, {"height", "width"}):
        return (
            f"resizes by {', '.join(sorted(given)) or 'no size'}, and only shortest_edge or height and width are known"
        )
    if not processor.do_center_crop:
        # The images of a batch have one size and keep one, but the network accepts only its own.
        return None if processor.do_resize and "height" in given else "neither crops nor resizes to a fixed size"
    crop, size = processor.crop_size, processor.size
    smallest = (size.shortest_edge or size.height, size.shortest_edge or size.width) if processor.do_resize else (0, 0)
    if crop.height > smallest[0] or crop.width > smallest[1]:
        return "crops more than it resizes to"
    return None
