"""The networks of a generator, built from their configurations without data, and the inputs of the one that draws."""

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
"""of a prompt, where a T5's pipeline does not say"""


@dataclass(slots=True)
class Pipeline:
    """The networks that a generator draws with, by the names that its pipeline has for them."""

    networks: dict[str, Any]
    latent: tuple[int, int, int] = (0, 0, 0)
    """C, H, W"""
    pixels: tuple[int, int] = (0, 0)
    """height and width of the images"""

    @classmethod
    def build(
        cls, settings: ModelSettings, choose_dtype: Callable[[str, Config], torch.dtype] = lambda *_: torch.float32
    ) -> Self:
        """Build a generator's own networks, or those that take their place, in types chosen by name and configuration.

        Raises:
            UnknownModel: a configuration cannot be had, or the network that draws is of no known class.
        """
        networks = {}
        for name, entry in _read_own(settings, INDEX).items():
            if not isinstance(entry, list) or len(entry) != 2 or name in UNLOADED:
                continue
            exchanged = _read_exchanged(settings, name) if name in EXCHANGED else None
            found = find_class(entry[0], str((exchanged or {}).get("_class_name", entry[1])))
            if isinstance(found, type) and issubclass(found, nn.Module):
                config = exchanged or _read_own(settings, f"{name}/{CONFIG}")
                networks[name] = build_network(found, config, choose_dtype(name, config))
        pipeline = cls(networks)
        if "vae" not in networks or pipeline.denoiser is None:
            raise UnknownModel("it has no network that draws by a known name")
        scale = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        side = int(pipeline.denoiser.config.get("sample_size") or 1024 // scale)
        height, width = (
            each // scale if each else side for each in (settings.sampling.height, settings.sampling.width)
        )
        pipeline.latent = (int(pipeline.vae.config.latent_channels), height, width)
        pipeline.pixels = (height * scale, width * scale)
        return pipeline

    @property
    def denoiser(self) -> Any:
        """The network that draws."""
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
        """Images that pass through the VAE at a time, at most."""
        return max(1, PIXELS_AT_ONCE // (self.pixels[0] * self.pixels[1]))

    def count_bytes(self) -> float:
        """Return the bytes of all weights in their types."""
        return sum(map(count_bytes, self.networks.values()))

    def count_conditioning(self) -> int:
        """Return the numbers of a prompt's conditioning: an embedding of each token, pooled embeddings left aside."""
        return sum(_count_tokens(each) * int(getattr(each.config, "hidden_size", 0)) for each in self.text_encoders)

    def read_prompts(self, prompts: int) -> None:
        """Pass prompts through the text encoders."""
        for encoder in self.text_encoders:
            encoder(torch.zeros(prompts, _count_tokens(encoder), dtype=torch.int64))

    def prepare_denoising(self, rows: int, latent: tuple[int, int, int] | None = None) -> Callable[[], Tensor]:
        """Return a call of the denoiser on `rows` latents, of the shape `latent` or its own, in the denoiser's type.

        Raises:
            UnknownModel: the inputs of its class are not known here.
        """
        denoiser, dtype = self.denoiser, next(self.denoiser.parameters()).dtype
        kind, config, (_, height, width) = type(denoiser).__name__, denoiser.config, latent or self.latent

        def make(*shape: int) -> Tensor:
            return torch.empty(rows, *shape, dtype=dtype)

        with DATALESS:
            inputs: dict[str, Any] = {"timestep": make()}
            if kind == "UNet2DConditionModel":
                inputs["timestep"] = torch.zeros(rows, dtype=torch.int64)
                # Those that paint over an image take other latent channels than the VAE's.
                inputs["sample"] = make(config.in_channels, height, width)
                tokens = max(map(_count_tokens, self.text_encoders))
                inputs["encoder_hidden_states"] = make(tokens, config.cross_attention_dim)
                if config.addition_embed_type == "text_time":
                    # The pooled embedding of the prompt, and as many sizes of the image as there is room for.
                    pooled = self.networks["text_encoder_2"].config.projection_dim
                    sizes = (config.projection_class_embeddings_input_dim - pooled) // config.addition_time_embed_dim
                    inputs["added_cond_kwargs"] = {"text_embeds": make(pooled), "time_ids": make(sizes)}
            elif kind == "SD3Transformer2DModel":
                inputs["hidden_states"] = make(config.in_channels, height, width)
                inputs["encoder_hidden_states"] = make(77 + T5_TOKENS, config.joint_attention_dim)
                inputs["pooled_projections"] = make(config.pooled_projection_dim)
            elif kind == "FluxTransformer2DModel":
                places, tokens = height * width // 4, 2 * T5_TOKENS  # four latents are a token
                inputs["hidden_states"] = make(places, config.in_channels)
                inputs["encoder_hidden_states"] = make(tokens, config.joint_attention_dim)
                inputs["pooled_projections"] = make(config.pooled_projection_dim)
                inputs |= {"img_ids": torch.empty(places, 3), "txt_ids": torch.empty(tokens, 3)}
                inputs |= {"guidance": make()} if config.guidance_embeds else {}
            else:
                raise UnknownModel(f"what a {kind} is called with isn't known")
        return lambda: denoiser(**inputs).sample


def _read_own(settings: ModelSettings, name: str) -> Config:
    """Return a file of the generator's own configuration."""
    if settings.path.endswith(SAFE):
        return read_config(settings.configuration or settings.path, None, name, settings.type)
    return read_config(settings.path, settings.revision, name)


def _read_exchanged(settings: ModelSettings, name: str) -> Config | None:
    """Return the configuration of what takes the place of the part `name`; None: the part's own holds for it."""
    part = settings.parts.get(name)
    if part is None or part.path.endswith(SAFE):
        return None
    try:
        return read_config(part.path, part.revision, f"{name}/{CONFIG}")
    except UnknownModel:
        return read_config(part.path, part.revision)


def _count_tokens(encoder: Any) -> int:
    """Return how many tokens of a prompt a text encoder reads."""
    return int(getattr(encoder.config, "max_position_embeddings", T5_TOKENS))
