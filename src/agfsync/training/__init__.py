"""What makes a model prefer the winners: losses, noising, batches, loop, checkpoints; one file a method.

Legend of the shape suffixes: P pairs, B samples (winners, then losers: 2P), C H W latent channels, height, width,
T tokens, D embedding width.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from agfsync.models.schedules import NoiseSchedule

Conditioning = Mapping[str, Tensor]
"""What a prompt, or a picture itself, says to the denoiser: named tensors, one row for each."""


class TrainableModel(Protocol):
    """What the training loop needs of a model: a diffusion model, or a reward model."""

    @property
    def device(self) -> torch.device: ...

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        ...

    def save(self, folder: Path) -> None:
        """Write the whole model, with the network as it now is."""
        ...


@runtime_checkable
class Denoiser(TrainableModel, Protocol):
    """What alignment needs of a diffusion model: also its noise schedule, and the way into its latent space."""

    @property
    def adapter_targets(self) -> Sequence[str]:
        """The ends of the names of the layers that a LoRA adapts."""
        ...

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process that the network was made for."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents, float32 (B, C, H, W)."""
        ...

    def picture_conditioning(self, images: Sequence[Image.Image]) -> Conditioning:
        """What the network is told of each picture itself, in place of the prompt's tensors of that name, one row an
        image; most networks are told nothing."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning tensors, one row a prompt."""
        ...

    def predict(self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return what `network`, this generator's or a copy of it, predicts at the schedule's times: (B, C, H, W)."""
        ...

    def save_adapter(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Writes a LoRA of the network, `weights` by peft's names."""
        ...


class Reference(Protocol):
    """The base model, which never moves."""

    def __call__(self) -> AbstractContextManager[nn.Module]:
        """A context in which its network predicts as the base does and nothing is recorded for a gradient."""
        ...
