"""The description of a family of latent diffusion models, and the sizes of its images.

Legend: U distinct prompts, T tokens, D embedding width, H W the image's height and width in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from agfsync.errors import ModelError

TEXT_STATES = "encoder_hidden_states_BTD"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of an attention layer that a LoRA adapts, by diffusers' names."""
Conditioning = Mapping[str, Tensor]
"""The network's inputs other than latents and time: named tensors with one row for each prompt or image."""
Size = tuple[int, int]
"""Height and width."""
_DENOISER_PREFIXES = ("model.diffusion_model.",)
NETWORK_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": _DENOISER_PREFIXES,
    "transformer": _DENOISER_PREFIXES,
    "vae": ("first_stage_model.", "vae."),
}
"""The possible prefixes of a network's weights in a single file of a whole pipeline."""


@dataclass(frozen=True, slots=True)
class ImageSides:
    """The allowed heights and widths of an image, in pixels."""

    multiple_of: int
    default: int | Size | None
    """the size that the network was trained for: the side of a square, or height and width; None if unknown"""
    most: int | None = None


def unet_sides(pipeline: Any) -> ImageSides:
    """Return the image sides of a UNet: any size that the VAE supports."""
    scale, size = pipeline.vae_scale_factor, size_in_latents(pipeline.unet.config.sample_size)
    return ImageSides(scale, size and (size[0] * scale, size[1] * scale))


def size_in_latents(sample_size: Any) -> Size | None:
    """Return a UNet's `sample_size`, one number or two, as height and width; None if it is invalid.

    >>> size_in_latents(64), size_in_latents([96, 64]), size_in_latents(None)
    ((64, 64), (96, 64), None)
    """
    both = [sample_size] * 2 if isinstance(sample_size, int) else sample_size
    if not isinstance(both, list | tuple) or len(both) != 2 or not all(isinstance(n, int) and n > 0 for n in both):
        return None
    return both[0], both[1]


def vae_dtype_in_range(vae: Any, dtype: torch.dtype) -> torch.dtype:
    """Return fp32 instead of fp16 for a VAE that overflows in fp16, such as SDXL's own; bf16 has the range."""
    return torch.float32 if dtype == torch.float16 and getattr(vae.config, "force_upcast", False) else dtype


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of models. `name` is its type in the catalog, `pipeline` the class of its pipeline in diffusers."""

    name: str
    pipeline: Any
    encode: Callable[..., Conditioning]
    """(pipeline, prompts, size in pixels[, clip_skip]) -> conditioning, float32, one row for each prompt"""
    embeddings: Sequence[str] = (TEXT_STATES,)
    """the conditioning tensors that are c in Eq. 1: its noise is added to them, and they have the network's dtype"""
    arguments: Callable[[Conditioning], dict[str, Any]] = lambda given: {"encoder_hidden_states": given[TEXT_STATES]}
    """conditioning -> the network's keyword arguments"""
    vae_dtype: Callable[[Any, torch.dtype], torch.dtype] = vae_dtype_in_range
    """(VAE, the networks' dtype) -> the dtype in which the VAE doesn't overflow"""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """the arguments that leave parts of its pipeline out, by name"""
    marker: str | None = None
    """prefix of the names of the text encoders' weights in a single file; None: single files aren't supported"""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NETWORK_PREFIXES)
    """part -> the possible prefixes of its weights in a single file"""
    sides: Callable[[Any], ImageSides] = unet_sides
    """pipeline -> the sizes of its images"""
    image_conditioning: Callable[[Sequence[Image.Image], Size], Conditioning] = lambda images, size: {}
    """(images, size to which they are fitted) -> conditioning of the images in training, float32, one row for each; it
    replaces the prompts' tensors of the same name"""
    refiner: Callable[..., Any] | None = None
    """creates the refiner, which can denoise in the last steps"""
    latent_statistics: Sequence[str] = ()
    """keys of the VAE's configuration, in addition to scaling_factor, that diffusers' pipeline applies to latents"""
    latent_patch: int = 1
    """one latent of the network is a square of the VAE's latents with this side, with all their channels"""
    adapter_targets: Sequence[str] = ATTENTION
    """the layers of its network that a LoRA adapts, by the ends of their names"""
    steerable: bool = False
    """True if training-free methods can steer its sampler: its UNet has the cross-attention of 1.x and 2.x"""
    indexed: bool = False
    """True if diffusers' pipeline counts the scheduler's steps from 0, instead of looking up the first timestep"""

    def cast(self, conditioning: Conditioning, dtype: torch.dtype) -> dict[str, Any]:
        """Return the network's keyword arguments for `conditioning`, with the embeddings in `dtype`."""
        return self.arguments({n: t.to(dtype) if n in self.embeddings else t for n, t in conditioning.items()})


def choose_image_size(sides: ImageSides, height: int | None, width: int | None) -> Size:
    """Return the height and width of images in pixels; by default the size that the network was trained for.

    Raises:
        ModelError: the network can't draw this size, or neither the network nor the recipe gives one.
    """
    for name, side in (("height", height), ("width", width)):
        if side is not None and side % sides.multiple_of:
            raise ModelError(f"the generator's {name} must be a multiple of {sides.multiple_of}, got {side}")
        if side is not None and sides.most is not None and side > sides.most:
            raise ModelError(f"the generator's {name} can be {sides.most} at most, got {side}")
    default = (sides.default, sides.default) if isinstance(sides.default, int) else sides.default
    if default is None and not (height and width):
        raise ModelError("the generator's network doesn't say the size it was made for: set height and width")
    return height or (default or (0, 0))[0], width or (default or (0, 0))[1]


def token_ids(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Return the token ids of each prompt, truncated or padded to the encoder's length: int64 (U, T)."""
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids_UT: Tensor = tokens.input_ids.to(device)
    return ids_UT
