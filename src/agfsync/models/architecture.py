"""What tells one family of latent diffusion models from another.

Legend: U distinct prompts, T tokens, D embedding width, H W the picture's height and width in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from agfsync.errors import ModelError

TEXT = "encoder_hidden_states_BTD"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Diffusers' names of an attention's projections, which a LoRA adapts."""
Conditioning = Mapping[str, Tensor]
"""What a prompt says to the network: named tensors, one row a prompt."""
Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What a picture's height and width can be, in pixels."""

    multiple_of: int
    default: int | Size | None
    """that which the network was made for, of a square or as height and width; None: it doesn't say"""
    most: int | None = None


def unet_sides(pipeline: Any) -> Sides:
    """Return the sides of a UNet, which takes any size that the VAE does."""
    scale, size = pipeline.vae_scale_factor, size_in_latents(pipeline.unet.config.sample_size)
    return Sides(scale, size and (size[0] * scale, size[1] * scale))


def size_in_latents(sample_size: Any) -> Size | None:
    """Return what a UNet's `sample_size` says, one number or two; None for null and for what says nothing.

    >>> size_in_latents(64), size_in_latents([96, 64]), size_in_latents(None)
    ((64, 64), (96, 64), None)
    """
    both = [sample_size] * 2 if isinstance(sample_size, int) else sample_size
    if not isinstance(both, list | tuple) or len(both) != 2 or not all(isinstance(n, int) and n > 0 for n in both):
        return None
    return both[0], both[1]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of models. `name` is its type in the catalog, `pipeline` its class in diffusers."""

    name: str
    pipeline: Any
    embeddings: Sequence[str]
    """those of the conditioning that are c in Eq. 1: they take its noise, and the network's dtype"""
    encode: Callable[..., Conditioning]
    """(pipeline, prompts, size in pixels[, clip_skip]) -> float32 conditioning, a row a prompt"""
    arguments: Callable[[Conditioning], dict[str, Any]]
    """conditioning -> what the network calls it"""
    vae_dtype: Callable[[Any, torch.dtype], torch.dtype]
    """(VAE, the networks' dtype) -> the VAE's, in which it doesn't overflow"""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """what its pipeline has beside the networks, and how it is left out"""
    marker: str | None = None
    """how the names of its text encoders' weights begin in a single file; None: single files aren't read"""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """how the names of each part's weights begin in a single file; one of several"""
    sides: Callable[[Any], Sides] = unet_sides
    """of its pictures, given the pipeline"""
    picture_conditioning: Callable[[Sequence[Image.Image], Size], Conditioning] = lambda images, size: {}
    """(pictures, size that they are fitted to) -> what the network is told of each in training, float32, a row a
    picture, in place of what a prompt's conditioning has by that name"""
    refiner: Callable[..., Any] | None = None
    """what makes the model that can take its last steps"""
    latent_statistics: Sequence[str] = ()
    """keys of the VAE's configuration that its pipeline in diffusers applies to latents, besides scaling_factor"""
    adapter_targets: Sequence[str] = ATTENTION
    """the ends of the names of the layers that a LoRA of its network adapts"""
    indexed: bool = False
    """its pipeline in diffusers counts the scheduler's steps from 0, and doesn't look up the first by its timestep"""

    def cast(self, conditioning: Conditioning, dtype: torch.dtype) -> dict[str, Any]:
        """`conditioning` as the network takes it, its embeddings in `dtype`."""
        return self.arguments({n: t.to(dtype) if n in self.embeddings else t for n, t in conditioning.items()})


def picture_size(sides: Sides, height: int | None, width: int | None) -> Size:
    """Return the picture's height and width, by default those which the network was made for.

    Raises:
        ModelError: the network can't draw it, or neither it nor the recipe gives a size.
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


def vae_dtype_in_range(vae: Any, dtype: torch.dtype) -> torch.dtype:
    """fp32 in fp16's place, which SDXL's own VAE overflows; one that is mended for fp16 says so. bf16 has the range."""
    return torch.float32 if dtype == torch.float16 and vae.config.force_upcast else dtype


def token_ids(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Each prompt's tokens, cut or filled up to what the encoder takes: int64 (U, T)."""
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids_UT: Tensor = tokens.input_ids.to(device)
    return ids_UT
