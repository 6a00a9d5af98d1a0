"""Training on AI feedback: one loop for every method, its objectives, checkpoints and published files.

Legend of the shape suffixes: P pairs, B samples (winners, then losers: 2P), C H W latent channels, height, width,
T tokens, D embedding width.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from agfsync.models.architecture import Conditioning as Conditioning
from agfsync.models.schedules import NoiseSchedule


class TrainableModel(Protocol):
    """The part of a model that the training loop uses; a diffusion model or a reward model has it."""

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        ...

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        ...

    def save(self, folder: Path) -> None:
        """Write the whole model to `folder`, with the current weights of the network."""
        ...


@runtime_checkable
class DiffusionModel(TrainableModel, Protocol):
    """A diffusion or flow model that can be aligned: it also has a noise schedule and encodes images into latents."""

    @property
    def adapter_targets(self) -> Sequence[str]:
        """The suffixes of the names of the layers that a LoRA adapts."""
        ...

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process that the network was trained for."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the scaled latents of `images`, float32 (B, C, H, W)."""
        ...

    def image_conditioning(self, images: Sequence[Image.Image]) -> Conditioning:
        """Return the conditioning on the images themselves, such as their sizes, one row per image.

        Most networks have none: {}. These tensors replace the prompt's tensors of the same name.
        """
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning tensors of `prompts`, one row per prompt."""
        ...

    def predict(self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction of `network`, this model's or a copy of it, at times of the schedule: (B, C, H, W)."""
        ...

    def save_adapter(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write a LoRA of the network to `folder`; `weights` have peft's names."""
        ...


@runtime_checkable
class DifferentiableModel(DiffusionModel, Protocol):
    """A model with a differentiable decoder, for methods that follow the gradient of a reward."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image's latents."""
        ...

    def decode_pixels(self, latents_BCHW: Tensor) -> Tensor:
        """Return the RGB pixels of scaled latents, float32 (B, 3, H, W) in 0..1.

        The gradient passes through the clamp to 0..1, so that saturated pixels also have one.
        """
        ...


class SamplingModel(DiffusionModel, Protocol):
    """A model that can be sampled in training: it also has sampling settings, and decodes latents."""

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance in sampling; 1 if the guidance is built into the network."""
        ...

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image's latents."""
        ...

    def decode_latents(self, latents_BCHW: Tensor) -> Sequence[Image.Image]:
        """Return the RGB images of scaled latents."""
        ...


class TracedModel(DiffusionModel, Protocol):
    """A model that can redraw the starting noise of an image from its seed."""

    def draw_starting_noise(self, seeds: Sequence[int], conditioning: Conditioning) -> Tensor:
        """Return the noise from which the images of `seeds` were drawn, float32 (B, C, H, W), on the CPU."""
        ...


@runtime_checkable
class ReleasingModel(Protocol):
    """A model that can free the memory of its text encoders and VAE, and reload them when they are needed."""

    def release_encoders(self) -> None:
        """Free the memory of the text encoders and the VAE."""
        ...


def release_encoders(model: Any) -> None:
    """Free the memory of a model's text encoders and VAE, if it can."""
    if isinstance(model, ReleasingModel):
        model.release_encoders()


class Reference(Protocol):
    """The frozen base model."""

    def __call__(self) -> AbstractContextManager[nn.Module]:
        """Return a context that yields a network with the base model's predictions, and records no gradient."""
        ...
