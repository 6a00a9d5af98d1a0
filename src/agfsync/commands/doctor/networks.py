"""The networks of a generator, built from their configurations without data, and the inputs of its denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from agfsync.models import EXCHANGED, UNLOADED
from agfsync.models.configuration import find_class
from agfsync.models.counting import DATALESS, build_network, count_bytes
from agfsync.models.files import CONFIG, INDEX
from agfsync.models.hub import SAFE
from agfsync.models.latents import PIXELS_AT_ONCE
from agfsync.models.published import Config, UnknownModel, read_config
from agfsync.recipe import ModelSettings

T5_TOKENS = 256
"""tokens of a prompt, if a T5's pipeline doesn't define them"""
_TEXT_TOKENS = {
    "FluxTransformer2DModel": 512,
    "Flux2Transformer2DModel": 512,
    "QwenImageTransformer2DModel": 512,
    "ZImageTransformer2DModel": 512,
    "SanaTransformer2DModel": 300,
}
"""denoiser class -> tokens of a prompt, as its type in `agfsync.models` encodes it"""
_TEXTS = ("encoder_hidden_states", "cap_feats")
"""the names of the text input of the denoiser classes"""
_PACKED = 2
"""the side of the patch of latents that is one token of FLUX, FLUX.2 and Qwen-Image"""


@dataclass(slots=True)
class Pipeline:
    """The networks that a generator draws with, by their names in its pipeline."""

    networks: dict[str, Any]
    latent: tuple[int, int, int] = (0, 0, 0)
    """C, H, W"""
    pixels: tuple[int, int] = (0, 0)
    """height and width of the images"""
    tokens: int = T5_TOKENS
    """tokens of a prompt, for text encoders without a limit"""

    @classmethod
    def build(
        cls, settings: ModelSettings, choose_dtype: Callable[[str, Config], torch.dtype] = lambda *_: torch.float32
    ) -> Self:
        """Build a generator's networks, exchanged ones included, in dtypes chosen by name and configuration.

        Raises:
            UnknownModel: a configuration can't be read, or the class of the denoiser is unknown.
        """
        networks = {}
        for name, entry in _read_own(settings, INDEX).items():
            if not isinstance(entry, list) or len(entry) != 2 or name in UNLOADED:
                continue
            exchanged = _read_exchanged(settings, name) if name in EXCHANGED else None
            class_ = find_class(entry[0], str((exchanged or {}).get("_class_name", entry[1])))
            if isinstance(class_, type) and issubclass(class_, nn.Module):
                config = exchanged or _read_own(settings, f"{name}/{CONFIG}")
                networks[name] = build_network(class_, config, choose_dtype(name, config))
        pipeline = cls(networks)
        pipeline.tokens = _TEXT_TOKENS.get(type(pipeline.denoiser).__name__, T5_TOKENS)
        if "vae" not in networks or pipeline.denoiser is None:
            raise UnknownModel("it has no network that draws by a known name")
        scale, channels = _read_latent_space(pipeline.vae.config)
        side = int(pipeline.denoiser.config.get("sample_size") or 1024 // scale)
        height, width = (
            size // scale if size else side for size in (settings.sampling.height, settings.sampling.width)
        )
        pipeline.tokens = getattr(settings, "max_sequence_length", None) or pipeline.tokens
        pipeline.latent = (channels, height, width)
        pipeline.pixels = (height * scale, width * scale)
        return pipeline

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer."""
        return self.networks.get("unet") or self.networks.get("transformer")

    @property
    def vae(self) -> Any:
        """The network between images and latents."""
        return self.networks["vae"]

    @property
    def text_encoders(self) -> list[Any]:
        """The networks that read prompts."""
        return [network for name, network in self.networks.items() if name.startswith("text_encoder")]

    @property
    def most_at_once(self) -> int:
        """The most images that the VAE processes at a time."""
        return max(1, PIXELS_AT_ONCE // (self.pixels[0] * self.pixels[1]))

    def count_bytes(self) -> float:
        """Return the bytes of all weights in their dtypes."""
        return sum(map(count_bytes, self.networks.values()))

    def count_conditioning(self) -> int:
        """Return the number of values in a prompt's conditioning: the token embeddings, without pooled embeddings."""
        text = next(each for name, each in self._make_inputs(1, None).items() if name in _TEXTS)
        return int(text[0].numel())

    def read_prompts(self, prompts: int) -> None:
        """Pass prompts through the text encoders."""
        for encoder in self.text_encoders:
            encoder(torch.zeros(prompts, self._count_tokens(encoder), dtype=torch.int64))

    def encode(self, images: int) -> Any:
        """Pass images through the VAE's encoder."""
        shape = (images, 3, 1, *self.pixels) if self._is_video else (images, 3, *self.pixels)
        return self.vae.encode(torch.empty(shape, dtype=self.vae.dtype))

    def decode(self, images: int) -> Any:
        """Pass the latents of images through the VAE's decoder."""
        channels, height, width = self.latent
        shape = (images, channels, 1, height, width) if self._is_video else (images, channels, height, width)
        return self.vae.decode(torch.empty(shape, dtype=self.vae.dtype)).sample

    def prepare_denoising(self, rows: int, latent: tuple[int, int, int] | None = None) -> Callable[[], Tensor]:
        """Return a call of the denoiser on `rows` latents of the shape `latent` (default: its own), in its dtype.

        Raises:
            UnknownModel: the inputs of its class are unknown.
        """
        denoiser, inputs = self.denoiser, self._make_inputs(rows, latent)

        def call() -> Tensor:
            predicted = denoiser(**inputs).sample
            return torch.stack(predicted) if isinstance(predicted, list) else predicted

        return call

    def _make_inputs(self, rows: int, latent: tuple[int, int, int] | None) -> dict[str, Any]:
        denoiser, dtype = self.denoiser, next(self.denoiser.parameters()).dtype
        kind, config, (_, height, width) = type(denoiser).__name__, denoiser.config, latent or self.latent
        packed = (height // _PACKED) * (width // _PACKED)

        def make(*shape: int) -> Tensor:
            return torch.empty(rows, *shape, dtype=dtype)

        with DATALESS:
            inputs: dict[str, Any] = {"timestep": make()}
            if kind == "UNet2DConditionModel":
                inputs["timestep"] = torch.zeros(rows, dtype=torch.int64)
                # Inpainting models have other latent channels than the VAE.
                inputs["sample"] = make(config.in_channels, height, width)
                tokens = max(map(self._count_tokens, self.text_encoders))
                inputs["encoder_hidden_states"] = make(tokens, config.cross_attention_dim)
                if config.addition_embed_type == "text_time":
                    # The pooled embedding of the prompt, and image sizes that fill the remaining width.
                    pooled = self.networks["text_encoder_2"].config.projection_dim
                    sizes = (config.projection_class_embeddings_input_dim - pooled) // config.addition_time_embed_dim
                    inputs["added_cond_kwargs"] = {"text_embeds": make(pooled), "time_ids": make(sizes)}
            elif kind == "SD3Transformer2DModel":
                inputs["hidden_states"] = make(config.in_channels, height, width)
                inputs["encoder_hidden_states"] = make(
                    self._count_tokens(self.text_encoders[0]) + self.tokens, config.joint_attention_dim
                )
                inputs["pooled_projections"] = make(config.pooled_projection_dim)
            elif kind == "SanaTransformer2DModel":
                inputs["hidden_states"] = make(config.in_channels, height, width)
                inputs["encoder_hidden_states"] = make(self.tokens, config.caption_channels)
            elif kind == "ZImageTransformer2DModel":
                images = [torch.empty(config.in_channels, 1, height, width, dtype=dtype)] * rows
                texts = [torch.empty(self.tokens, config.cap_feat_dim, dtype=dtype)] * rows
                inputs = {"x": images, "t": make(), "cap_feats": texts}
            elif kind in ("FluxTransformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel"):
                inputs["hidden_states"] = make(packed, config.in_channels)
                inputs["encoder_hidden_states"] = make(self.tokens, config.joint_attention_dim)
                if kind == "QwenImageTransformer2DModel":
                    inputs["img_shapes"] = [[(1, height // _PACKED, width // _PACKED)]] * rows
                else:
                    axes = len(config.axes_dims_rope)
                    inputs |= {"img_ids": torch.empty(packed, axes), "txt_ids": torch.empty(self.tokens, axes)}
                    inputs |= {"guidance": make()} if config.guidance_embeds else {}
                if kind == "FluxTransformer2DModel":
                    inputs["pooled_projections"] = make(config.pooled_projection_dim)
            else:
                raise UnknownModel(f"what a {kind} is called with isn't known")
        return inputs

    @property
    def _is_video(self) -> bool:
        return "z_dim" in self.vae.config

    def _count_tokens(self, encoder: Any) -> int:
        """Return the number of tokens that a text encoder reads of a prompt."""
        return min(self.tokens, int(getattr(encoder.config, "max_position_embeddings", self.tokens)))


def _read_latent_space(config: Config) -> tuple[int, int]:
    """Return the downsampling factor and the latent channels of a VAE's configuration."""
    if "z_dim" in config:
        return 2 ** len(config["temperal_downsample"]), int(config["z_dim"])
    blocks = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return 2 ** (len(blocks) - 1), int(config["latent_channels"])


def _read_own(settings: ModelSettings, name: str) -> Config:
    """Return a file of the generator's own configuration."""
    if settings.path.endswith(SAFE):
        return read_config(settings.configuration or settings.path, None, name, settings.type)
    return read_config(settings.path, settings.revision, name)


def _read_exchanged(settings: ModelSettings, name: str) -> Config | None:
    """Return the configuration of the network that replaces the part `name`; None if the part's own applies."""
    part = settings.parts.get(name)
    if part is None or part.path.endswith(SAFE):
        return None
    try:
        return read_config(part.path, part.revision, f"{name}/{CONFIG}")
    except UnknownModel:
        return read_config(part.path, part.revision)
