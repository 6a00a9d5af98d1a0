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
    """A diffusion or flow model that can be aligned: it also has a noise schedule and encodes into its latent space."""

    @property
    def adapter_targets(self) -> Sequence[str]:
        """The ends of the names of the layers that a LoRA adapts."""
        ...

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process that the network was made for."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the scaled latents of `images`, float32 (B, C, H, W)."""
        ...

    def image_conditioning(self, images: Sequence[Image.Image]) -> Conditioning:
        """Return the conditioning on the images themselves, one row an image; {} for most networks.

        An example is their sizes. It replaces the prompt's tensors of the same name.
        """
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning tensors of `prompts`, one row a prompt."""
        ...

    def predict(self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction of `network`, this model's or a copy of it, at the schedule's times: (B, C, H, W)."""
        ...

    def save_adapter(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write a LoRA of the network to `folder`; `weights` have peft's names."""
        ...


@runtime_checkable
class DifferentiableModel(DiffusionModel, Protocol):
    """A model whose images have a gradient, for methods that follow the gradient of a reward."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The latents of an image: channels, height, width."""
        ...

    def decode_pixels(self, latents_BCHW: Tensor) -> Tensor:
        """Return the RGB pixels of scaled latents, float32 (B, 3, H, W) in 0..1.

        The gradient passes the clamp to 0..1, so that a saturated pixel has one.
        """
        ...


class SamplingModel(DiffusionModel, Protocol):
    """A model that can be sampled in training: it also says how it draws, and decodes latents."""

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance that it draws with; 1 where the guidance is built in."""
        ...

    @property
    def steps(self) -> int:
        """The number of sampling steps that it draws with."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of an image's latents."""
        ...

    def decode_latents(self, latents_BCHW: Tensor) -> Sequence[Image.Image]:
        """Return the RGB images of scaled latents."""
        ...


class TracedModel(DiffusionModel, Protocol):
    """A model that draws the starting noise of an image again from its seed."""

    def draw_starting_noise(self, seeds: Sequence[int], conditioning: Conditioning) -> Tensor:
        """Return the noise from which images of `seeds` were drawn, float32 (B, C, H, W), on the CPU."""
        ...


@runtime_checkable
class ReleasingModel(Protocol):
    """A model whose text encoders and VAE leave the memory when they aren't needed, and come back when they are."""

    def release_encoders(self) -> None:
        """Free their memory."""
        ...


def release_encoders(model: Any) -> None:
    """Free the memory of a model's text encoders and VAE, if it can."""
    if isinstance(model, ReleasingModel):
        model.release_encoders()


class Reference(Protocol):
    """The base model, whose weights never change."""

    def __call__(self) -> AbstractContextManager[nn.Module]:
        """Open a context whose network predicts as the base model does; no gradient is recorded in it."""
        ...
