"""Networks made from their configurations alone, within `tally.imagined`: their sizes, and their inputs.

Legend: B rows, C H W latent channels, height, width, T tokens, D width.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agfsync.commands.doctor.published import OF_TYPE, PUBLISHED
from agfsync.models import hub

INDEX, CONFIG = "model_index.json", "config.json"
DENOISERS = ("unet", "transformer")
"""What pipelines call the network that draws, the first that is there."""
T5_TOKENS = 256
"""of a prompt that a T5 is shown, where its pipeline doesn't say"""


class UnknownModel(Exception):
    """Its configuration isn't at hand, or is one that isn't known here; says so in few words."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's configuration files are looked for: a folder, a hub id, or what is known of one."""

    model: str
    revision: str | None = None
    otherwise: str = ""
    """the generator's type, for a single file without a configuration"""

    def settings(self, name: str) -> Mapping[str, Any]:
        """The configuration file `name`.

        Raises:
            UnknownModel: it can't be had.
        """
        path = self._path(name)
        if path is not None and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = None
            if isinstance(found, dict):
                return found
        known = PUBLISHED.get(self.model) or OF_TYPE.get(self.otherwise) or {}
        if name not in known:
            raise UnknownModel(f"{self.model}: its configuration isn't at hand")
        return known[name]

    def _path(self, name: str) -> Path | None:
        place = Path(self.model)
        if place.is_dir():
            return place / name
        return hub.fetch(self.model, name, self.revision) if hub.is_hub_id(self.model) else None


def size(network: nn.Module) -> float:
    """Bytes of its weights in the types that they have."""
    return float(sum(p.numel() * p.element_size() for p in (*network.parameters(), *network.buffers())))


def pipeline(source: Source) -> dict[str, nn.Module]:
    """The networks of a diffusers pipeline, in float32, by the names that it has for them.

    Raises:
        UnknownModel: its configuration isn't at hand, or one of its networks is of no known class.
    """
    index = source.settings(INDEX)
    parts = {name: each for name, each in index.items() if isinstance(each, list) and len(each) == 2}
    return dict(_components(source, parts))


def _components(source: Source, parts: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    for name, (library, kind) in parts.items():
        # A safety checker isn't loaded.
        if name == "safety_checker" or library not in ("diffusers", "transformers"):
            continue
        found = _class(library, kind)
        if isinstance(found, type) and issubclass(found, nn.Module):
            yield name, made(found, source.settings(f"{name}/{CONFIG}"))


def _class(library: str, kind: str) -> Any:
    import diffusers
    import transformers

    return getattr({"diffusers": diffusers, "transformers": transformers}[library], kind, None)


def made(kind: Any, settings: Mapping[str, Any]) -> nn.Module:
    """A network of class `kind`, of diffusers or transformers, in float32 and evaluation mode.

    Raises:
        UnknownModel: it can't be made of these settings.
    """
    from transformers.initialization import no_init_weights

    try:
        # Initialising looks at numbers, and there are none.
        with no_init_weights():
            if hasattr(kind, "from_config"):
                network: Any = kind.from_config(dict(settings))
            else:
                network = kind(kind.config_class.from_dict(dict(settings)))
                network.tie_weights()
    except Exception as failure:
        # Anything at all may be in somebody's configuration: an estimate isn't worth a traceback.
        raise UnknownModel(f"no {kind.__name__} can be made of its configuration") from failure
    evaluated: nn.Module = network.eval()
    return typed(evaluated, torch.float32)


def typed(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`network`, its weights in `dtype`. By hand: `to` can't exchange tensors that hold nothing."""
    new: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_floating_point() and weight.dtype != dtype:
                if id(weight) not in new:
                    new[id(weight)] = nn.Parameter(torch.empty_like(weight, dtype=dtype), weight.requires_grad)
                module._parameters[name] = new[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(dtype)
    return network


def denoiser_of(networks: Mapping[str, nn.Module]) -> nn.Module:
    """The network that draws.

    Raises:
        UnknownModel: it is of no known class.
    """
    for name in DENOISERS:
        if name in networks:
            return networks[name]
    raise UnknownModel("it has no network that draws by a known name")


def text_encoders(networks: Mapping[str, nn.Module]) -> list[nn.Module]:
    return [network for name, network in networks.items() if name.startswith("text_encoder")]


def tokens_of(encoder: Any) -> int:
    """How many tokens of a prompt an encoder is shown."""
    return int(getattr(encoder.config, "max_position_embeddings", T5_TOKENS))


def latent_shape(networks: Mapping[str, Any], height: int | None, width: int | None) -> tuple[int, int, int]:
    """C, H and W for pictures of this size in pixels; by default of that which the network was made for."""
    denoiser: Any = denoiser_of(networks)
    vae, config = networks["vae"], denoiser.config
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    default = int(config.get("sample_size") or 1024 // scale) * scale
    return int(vae.config.latent_channels), (height or default) // scale, (width or default) // scale


def denoising(networks: Mapping[str, Any], latent: tuple[int, int, int], rows: int) -> Callable[[Any], Any]:
    """What calls a denoiser on `rows` noisy latents; made within `imagined`, on tensors of the denoiser's type.

    Raises:
        UnknownModel: it is of a class whose inputs aren't known here.
    """
    denoiser: Any = denoiser_of(networks)
    kind = type(denoiser).__name__
    if kind not in INPUTS:
        raise UnknownModel(f"what a {kind} is called with isn't known")
    arguments = INPUTS[kind](networks, denoiser.config, latent, rows)
    return lambda network: network(**{n: _typed(each, network) for n, each in arguments.items()}).sample


def _typed(argument: Any, network: nn.Module) -> Any:
    if isinstance(argument, dict):
        return {name: _typed(each, network) for name, each in argument.items()}
    dtype = next(network.parameters()).dtype
    return argument.to(dtype) if isinstance(argument, Tensor) and argument.is_floating_point() else argument


def _unet(networks: Mapping[str, Any], config: Any, latent: tuple[int, int, int], rows: int) -> dict[str, Any]:
    tokens = max(tokens_of(each) for each in text_encoders(networks))
    # Some are made of another number of latent channels than the VAE's, to paint over a picture.
    inputs: dict[str, Any] = {
        "sample": torch.empty(rows, config.in_channels, *latent[1:]),
        "timestep": torch.zeros(rows, dtype=torch.int64),
        "encoder_hidden_states": torch.empty(rows, tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        inputs["added_cond_kwargs"] = _added(networks, config, rows)
    return inputs


def _added(networks: Mapping[str, Any], config: Any, rows: int) -> dict[str, Tensor]:
    """SDXL's pooled embedding, and as many numbers of sizes as there is room for beside it."""
    pooled = networks["text_encoder_2"].config.projection_dim
    ids = (config.projection_class_embeddings_input_dim - pooled) // config.addition_time_embed_dim
    return {"text_embeds": torch.empty(rows, pooled), "time_ids": torch.empty(rows, ids)}


def _sd3(networks: Mapping[str, Any], config: Any, latent: tuple[int, int, int], rows: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.empty(rows, config.in_channels, *latent[1:]),
        "timestep": torch.empty(rows),
        "encoder_hidden_states": torch.empty(rows, 77 + T5_TOKENS, config.joint_attention_dim),
        "pooled_projections": torch.empty(rows, config.pooled_projection_dim),
    }


def _flux(networks: Mapping[str, Any], config: Any, latent: tuple[int, int, int], rows: int) -> dict[str, Any]:
    """Four neighbouring latents are one token of the picture."""
    places, tokens = latent[1] * latent[2] // 4, 2 * T5_TOKENS
    inputs = {
        "hidden_states": torch.empty(rows, places, config.in_channels),
        "timestep": torch.empty(rows),
        "encoder_hidden_states": torch.empty(rows, tokens, config.joint_attention_dim),
        "pooled_projections": torch.empty(rows, config.pooled_projection_dim),
        "img_ids": torch.empty(places, 3),
        "txt_ids": torch.empty(tokens, 3),
    }
    return inputs | ({"guidance": torch.empty(rows)} if config.guidance_embeds else {})


INPUTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
"""Denoisers whose inputs are known."""
