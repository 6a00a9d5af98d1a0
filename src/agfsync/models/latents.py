"""Encode images to latents and decode them with the VAE, a few images at a time.

Legend: B images in the batch, C H W latent channels, height, width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from agfsync.errors import ModelError
from agfsync.files.images import fit_to_size
from agfsync.models.architecture import Size
from agfsync.models.dtypes import Precision

PIXELS_AT_ONCE = 2 * 1024 * 1024
"""the most pixels in one pass of the VAE, which needs more memory than the network; more would be no faster"""


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images of one size as float32 (B, 3, H, W) in -1..1."""
    stacked_BHWC = np.stack([np.asarray(image.convert("RGB"), np.uint8) for image in images])
    return torch.from_numpy(stacked_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels_BCHW: Tensor) -> list[Image.Image]:
    """Return RGB images from pixels (B, 3, H, W) in -1..1; values outside are clamped."""
    scaled = ((pixels_BCHW.float().clamp(-1, 1) + 1) * 127.5).round()
    return [Image.fromarray(pixels_HWC) for pixels_HWC in scaled.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy()]


class _ClampPassingGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def clamp_passing_gradient(values: Tensor) -> Tensor:
    """Clamp `values` to 0..1 with the gradient of the identity (a straight-through estimator).

    A plain clamp has gradient 0 outside of 0..1: a pixel that is too bright would never get darker.
    """
    clamped: Tensor = _ClampPassingGradient.apply(values)  # type: ignore[no-untyped-call]
    return clamped


class LatentSpace:
    """The latent space of a pipeline's VAE, scaled and shifted as its network expects, for images of one size.

    `statistics` are the keys of the VAE's configuration that diffusers' pipeline applies in addition to
    `scaling_factor`: `latents_mean` and `latents_std` (one number for each channel, only used together),
    `shift_factor`, or `batch_norm_eps`, for the running statistics of the VAE's batch normalisation. A latent of the
    network is a square of `patch` x `patch` latents of the VAE, with all their channels. A video VAE gets one frame.
    """

    def __init__(
        self, pipeline: Any, size: Size, precision: Precision, statistics: Sequence[str] = (), patch: int = 1
    ) -> None:
        self._vae, self._size, self._precision, self._patch = pipeline.vae, size, precision, patch
        self._vae.requires_grad_(False)
        height, width = size
        scale: int = pipeline.vae_scale_factor * patch
        config = self._vae.config
        self._is_video = "z_dim" in config
        channels = config.z_dim if self._is_video else config.latent_channels
        self.shape: tuple[int, int, int] = (channels * patch**2, height // scale, width // scale)
        """C, H, W"""
        self._scale: float = config.get("scaling_factor", 1.0)
        self._mean: Tensor | float | None = None
        self._std: Tensor | float = 1.0
        given = {key: config.get(key) for key in statistics if config.get(key) is not None}
        if {"latents_mean", "latents_std"} <= given.keys():
            self._mean, self._std = (self._by_channel(given[key]) for key in ("latents_mean", "latents_std"))
        elif "batch_norm_eps" in given:
            norm = self._vae.bn
            deviations = (norm.running_var.float() + given["batch_norm_eps"]).sqrt()
            self._mean, self._std = (self._by_channel(each.tolist()) for each in (norm.running_mean, deviations))
        elif "shift_factor" in given:
            self._mean = float(given["shift_factor"])

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Return latents, float32 (B, C, H, W): the mean of the VAE's posterior. Images are fitted to the size."""
        height, width = self._size
        pixels_BCHW = to_tensor([fit_to_size(image, width, height) for image in images])
        with self._precision.autocast():
            means = [self._encode_mean(some_BCHW).float() for some_BCHW in pixels_BCHW.split(self._images_at_once)]
        latents_BCHW = pixel_unshuffle(torch.cat(means), self._patch)
        if self._mean is not None:
            latents_BCHW = latents_BCHW - self._mean
        return latents_BCHW * self._scale / self._std

    @torch.inference_mode()
    def decode(self, latents_BCHW: Tensor, drawn_with: str = "") -> Sequence[Image.Image]:
        """Return the RGB images of latents (B, C, H, W), the inverse of `encode`.

        `drawn_with` describes the sampler of the latents in the error message.

        Raises:
            ModelError: some values aren't finite, which would give black images.
        """
        sound = bool(torch.isfinite(latents_BCHW).all())
        images: list[Image.Image] = []
        for pixels_BCHW in self._decode_in_turn(latents_BCHW):
            if not torch.isfinite(pixels_BCHW).all():
                raise ModelError(self._not_numbers(sound, drawn_with))
            images += to_images(pixels_BCHW)
        return images

    def decode_pixels(self, latents_BCHW: Tensor, checkpointing: bool = False) -> Tensor:
        """Return the pixels of latents (B, C, H, W), float32 (B, 3, H, W) in 0..1, with a gradient.

        They equal the pixels of `decode` before rounding; the gradient passes the clamp. With `checkpointing`, the VAE
        uses gradient checkpointing if it supports it, which needs less memory.
        """
        if checkpointing and self._vae._supports_gradient_checkpointing:
            self._vae.enable_gradient_checkpointing()
        pixels_BCHW = torch.cat([some_BCHW.float() for some_BCHW in self._decode_in_turn(latents_BCHW)])
        return clamp_passing_gradient((pixels_BCHW + 1) / 2)

    def _decode_in_turn(self, latents_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield the VAE's outputs, a few images at a time: in its own dtype, in -1..1 except for overshoots."""
        unscaled_BCHW = latents_BCHW * self._std / self._scale
        if self._mean is not None:
            unscaled_BCHW = unscaled_BCHW + self._mean
        for some_BCHW in pixel_shuffle(unscaled_BCHW, self._patch).split(self._images_at_once):
            given = some_BCHW.to(self._vae.dtype)
            with self._precision.autocast():
                decoded: Tensor = self._vae.decode(given[:, :, None] if self._is_video else given).sample
            yield decoded[:, :, 0] if self._is_video else decoded

    def _encode_mean(self, pixels_BCHW: Tensor) -> Tensor:
        pixels_BCHW = pixels_BCHW.to(self._precision.device, self._vae.dtype)
        if self._is_video:
            return _mean_of(self._vae.encode(pixels_BCHW[:, :, None]))[:, :, 0]
        return _mean_of(self._vae.encode(pixels_BCHW))

    def _not_numbers(self, latents_are_sound: bool, drawn_with: str) -> str:
        """Return the error message: where values aren't finite, and what to try."""
        kind, dtype = type(self._vae).__name__, _name_dtype(self._precision.dtype)
        seen = (
            f"the latents are numbers and what the {kind} makes of them in {_name_dtype(self._vae.dtype)} isn't"
            if latents_are_sound
            else f"its last latents already aren't ({dtype}{drawn_with and f', {drawn_with}'})"
        )
        half = torch.float16 in (self._precision.dtype, self._vae.dtype)
        guess = (
            "float16 may overflow: try dtype bf16 or fp32"
            if half
            else "its weights or its scheduler's configuration may be damaged: draw it with diffusers alone to see"
        )
        return f"the generator's images are not numbers: {seen}; {guess}"

    def _by_channel(self, values: Sequence[float]) -> Tensor:
        """Return `values`, one for each channel, as (1, C, 1, 1)."""
        if len(values) != self.shape[0]:
            raise ModelError(f"the VAE's latents have {self.shape[0]} channels, and statistics of {len(values)}")
        return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1).to(self._precision.device)

    @property
    def _images_at_once(self) -> int:
        height, width = self._size
        return max(1, PIXELS_AT_ONCE // (height * width))


def _mean_of(encoded: Any) -> Tensor:
    """Return the posterior's mean, or the latents of a VAE without a posterior (AutoencoderTiny, AutoencoderDC)."""
    if hasattr(encoded, "latent_dist"):
        mean: Tensor = encoded.latent_dist.mean
        return mean
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent
    return latents


def _name_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
