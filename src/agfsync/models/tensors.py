"""Pictures as tensors and back."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as float32 (B, 3, H, W) in -1..1."""
    stacked_BHWC = np.stack([np.asarray(image.convert("RGB"), np.uint8) for image in images])
    return torch.from_numpy(stacked_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels_BCHW: Tensor) -> list[Image.Image]:
    """Pictures of (B, 3, H, W) in about -1..1; what lies outside is cut."""
    scaled = ((pixels_BCHW.float().clamp(-1, 1) + 1) * 127.5).round()
    return [Image.fromarray(pixels_HWC) for pixels_HWC in scaled.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy()]
