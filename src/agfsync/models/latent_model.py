"""The base class of models on a VAE's latents: drawing and training, independent of what the network predicts.

Legend: B images in the batch, C H W latent channels, height, width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from agfsync.errors import model_errors
from agfsync.models.architecture import Architecture, Conditioning, Size
from agfsync.models.dtypes import Precision, torch_dtype
from agfsync.models.encoders import Encoders
from agfsync.models.execution import Execution
from agfsync.models.latents import LatentSpace
from agfsync.models.loading import PipelineSource, load_with_encoders, save_pipeline
from agfsync.models.loras import Lora
from agfsync.models.pretrained import torch_device
from agfsync.models.quantization import quantize_network
from agfsync.models.sampling import draw_embedding_noise, draw_noise


class LatentModel(ABC):
    """A text-to-image model of diffusers on a VAE's latents. A subclass loads its pipeline and draws."""

    _denoiser: ClassVar[str]
    """the pipeline's name of the network that is trained"""
    _pipeline: Any
    _encoders: Encoders
    _latents: LatentSpace
    _size: Size
    _steps: int

    def __init__(self, architecture: Architecture, path: str, dtype: str, device: str, execution: Execution) -> None:
        self._architecture, self._model, self._execution = architecture, path, execution
        self.adapter_targets = architecture.adapter_targets
        self.device = torch_device(device)
        self._precision = Precision(self.device, torch_dtype(dtype, self.device))

    def _load_pipeline(self, origin: PipelineSource, loras: Sequence[Lora], lazy: bool) -> None:
        """Load the networks. `loras` may change the encoders: with any, they are loaded at once and never released."""
        self._pipeline, self._encoders = load_with_encoders(
            self._architecture, origin, self._precision.weights, lazy=lazy and not loras
        )
        self._encoders.are_changed = bool(loras)

    def _move_pipeline(self) -> None:
        """Move the networks to their device, and apply the execution settings to the denoiser."""
        self._encoders.take_turns = self._execution.offload
        if self._execution.quantization is not None:
            quantize_network(self.network, self._execution.quantization, self.device, self._precision.dtype)
        self._encoders.move_pipeline(self.device)
        self._execution.prepare(self._architecture.name, self.network, self.device, self._precision.dtype)

    def _decode(self, latents_BCHW: Tensor, drawn_with: str = "") -> Sequence[Image.Image]:
        self._encoders.require("vae")
        self._encoders.take_turn("vae")
        return self._latents.decode(latents_BCHW, drawn_with)

    @property
    def network(self) -> nn.Module:
        """The UNet or transformer: the network that is trained."""
        network: nn.Module = getattr(self._pipeline, self._denoiser)
        return network

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        return self._steps

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of an image's latents."""
        return self._latents.shape

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        """Draw one image for each prompt with its seed, in order, all in one batch: x0 = G(c + n, z0) (Eq. 1).

        The seed's generator draws n ~ N(0, `embedding_noise`^2 I), then z0, so z0 doesn't depend on `embedding_noise`.
        """
        self._encoders.require()
        with model_errors(f"the model {self._model} can't draw"):
            sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            return self._draw_batch(prompts, sources, embedding_noise)

    @abstractmethod
    def _draw_batch(
        self, prompts: Sequence[str], sources: Sequence[torch.Generator], embedding_noise: float
    ) -> Sequence[Image.Image]: ...

    def draw_starting_noise(self, seeds: Sequence[int], conditioning: Conditioning) -> Tensor:
        """Return the noise z0 from which `draw` draws the images of `seeds`, float32 (B, C, H, W), on the CPU.

        `conditioning` may be that of any prompts: only its shape matters, since the embedding noise is drawn first.
        """
        sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        draw_embedding_noise(sources, conditioning, self._architecture.embeddings, 0.0)
        return draw_noise(sources, self._latents.shape)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return scaled latents, float32 (B, C, H, W): the mean of the VAE's posterior. Images are fitted to the size.

        The mean, not a sample: it is the same for every run and seed, and a sample would add noise to the difference
        between winner and loser that has nothing to do with the preference.
        """
        self._encoders.require("vae")
        self._encoders.take_turn("vae")
        with model_errors(f"the VAE of {self._model} can't encode images"):
            return self._latents.encode(images)

    def image_conditioning(self, images: Sequence[Image.Image]) -> Conditioning:
        """Return the conditioning of images that `encode_images` fits, such as their sizes: float32, one row each.

        It replaces the tensors of the same name in a prompt's conditioning, which describe an image to be drawn.
        Empty for most networks.
        """
        return self._architecture.image_conditioning(images, self._size)

    def decode_latents(self, latents_BCHW: Tensor) -> Sequence[Image.Image]:
        """Return RGB images of scaled latents (B, C, H, W), the inverse of `encode_images`.

        Raises:
            ModelError: some pixels aren't finite, which would give black images.
        """
        with model_errors(f"the VAE of {self._model} can't decode latents"):
            return self._decode(latents_BCHW)

    def decode_pixels(self, latents_BCHW: Tensor) -> Tensor:
        """Return the RGB pixels of scaled latents, float32 (B, 3, H, W) in 0..1, with a gradient.

        If the network uses gradient checkpointing, so does the VAE.
        """
        self._encoders.require("vae")
        with model_errors(f"the VAE of {self._model} can't decode latents"):
            return self._latents.decode_pixels(latents_BCHW, bool(self.network.is_gradient_checkpointing))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the prompts' conditioning for images of this model's size: float32, one row for each prompt."""
        self._encoders.require_text()
        with model_errors(f"the model {self._model} can't read prompts"):
            return self._encode_texts(prompts)

    @abstractmethod
    def _encode_texts(self, prompts: Sequence[str]) -> Conditioning: ...

    def release_encoders(self) -> None:
        """Free the memory of the text encoders and the VAE; they are loaded again when they are needed."""
        self._encoders.release()

    def save(self, folder: Path) -> None:
        """Save the whole pipeline, with the network's current weights, as safetensors."""
        self._encoders.require()
        save_pipeline(self._pipeline, folder)

    def save_adapter(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Save a LoRA of the network, `weights` by peft's names, in diffusers' format, which others also read."""
        layers = {f"{self._denoiser}_lora_layers": dict(weights)}
        self._architecture.pipeline.save_lora_weights(folder, **layers, safe_serialization=True)
