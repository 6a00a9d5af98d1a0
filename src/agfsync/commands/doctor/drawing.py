"""What drawing and training take of a diffusion model: memory, time, and the sizes of what they keep."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from agfsync import catalog
from agfsync.commands.doctor.networks import (
    Source,
    denoiser_of,
    denoising,
    latent_shape,
    pipeline,
    size,
    text_encoders,
    tokens_of,
    typed,
)
from agfsync.commands.doctor.tally import Work, imagined, tally
from agfsync.models.architecture import ATTENTION
from agfsync.models.dtypes import DTYPES
from agfsync.models.latents import PIXELS_AT_ONCE
from agfsync.recipe import ModelSettings, RefinerSettings, Training
from agfsync.training.attention import trainable_attention
from agfsync.training.precision import ROUNDED, autocast
from agfsync.training.reference import MULTIPLIED

MOMENTS = {"adamw": 8, "adamw8bit": 2}
"""bytes a trained weight"""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Of one batch: the `works` with how often each is done, and the memory in bytes with the weights."""

    works: tuple[tuple[Work, float], ...]
    memory: float
    pixels: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Teaching:
    """Of the whole training. `step` is a part's forward and backward pass, `updated` bytes that a step moves beside."""

    encode_image: Work
    encode_prompt: Work
    step: Work
    updated: float
    memory: float
    kept: float
    """bytes of the encoded pairs' latents and conditioning: one image's, and one prompt's"""
    kept_prompt: float
    checkpoint: float
    model: float


def source_of(settings: ModelSettings) -> Source:
    """Where a generator's configuration lies."""
    place = catalog.find_place(settings.path)
    if place.endswith(".safetensors"):
        return Source(catalog.find_place(settings.configuration or settings.path), otherwise=settings.type)
    return Source(place, settings.revision)


@cache
def picture_size(settings: ModelSettings) -> tuple[int, int]:
    """Height and width of the pictures.

    Raises:
        UnknownModel: the generator isn't known.
    """
    with imagined():
        networks = pipeline(source_of(settings))
        return _pixels(networks, latent_shape(networks, settings.sampling.height, settings.sampling.width))


def _pixels(networks: Mapping[str, nn.Module], latent: tuple[int, int, int]) -> tuple[int, int]:
    scale = 2 ** (len(_config(networks["vae"]).block_out_channels) - 1)
    return latent[1] * scale, latent[2] * scale


@cache
def drawing(settings: ModelSettings, device: str, pictures: int, prompts: int) -> Drawing:
    """A batch of `pictures` of `prompts` different prompts.

    Raises:
        UnknownModel: the generator, or its refiner, isn't known.
    """
    with imagined(), torch.no_grad():
        networks = pipeline(source_of(settings))
        latent = latent_shape(networks, settings.sampling.height, settings.sampling.width)
        weights = _typed(networks, settings, device)
        both = pictures * (2 if settings.sampling.guidance > 1 else 1)
        denoise = _denoised(networks, latent, both, settings, device)
        refine, more = None, 0.0
        if settings.refining:
            refine, more = _refined(settings, settings.refining, latent, both, device)
        last = settings.refining.from_step if settings.refining else settings.sampling.steps
        works = [(_read(networks, prompts + 1), 1.0), (denoise, float(min(last, settings.sampling.steps)))]
        works += [(refine, float(settings.sampling.steps - last))] if refine else []
        pixels = _pixels(networks, latent)
        works += _decoded(networks["vae"], latent, pixels, pictures, settings, device)
    return Drawing(tuple(works), weights + more + max(work.memory for work, _ in works), pixels)


def _typed(networks: Mapping[str, nn.Module], settings: ModelSettings, device: str) -> float:
    """Puts the networks into the types in which they draw on `device`; the bytes of their weights."""
    dtype = torch.float32 if device == "cpu" else DTYPES[settings.dtype]
    for name, network in networks.items():
        upcast = name == "vae" and dtype == torch.float16 and _config(network).get("force_upcast")
        # Stable Diffusion 1 and 2 have the flag too, and no need of it.
        typed(network, torch.float32 if upcast and settings.type == "stable-diffusion-xl" else dtype)
    return sum(map(size, networks.values()))


def _config(network: nn.Module) -> Any:
    return getattr(network, "config", {})


def _autocast(settings: ModelSettings, device: str) -> AbstractContextManager[Any]:
    """On a CPU the weights stay float32 and the multiplications are rounded."""
    rounded = device == "cpu" and settings.dtype != "fp32"
    return torch.autocast("cpu", DTYPES[settings.dtype]) if rounded else nullcontext()


def _denoised(
    networks: Mapping[str, nn.Module],
    latent: tuple[int, int, int],
    rows: int,
    settings: ModelSettings,
    device: str,
) -> Work:
    call, network = denoising(networks, latent, rows), denoiser_of(networks)
    with _autocast(settings, device):
        return tally(lambda: call(network))


def _refined(
    settings: ModelSettings, refiner: RefinerSettings, latent: tuple[int, int, int], rows: int, device: str
) -> tuple[Work, float]:
    """A step of the refiner, and the bytes of the weights that it has on the device."""
    networks = pipeline(Source(catalog.find_place(refiner.path), refiner.revision))
    networks.pop("vae", None)
    weights = _typed(networks, settings, device)
    return _denoised(networks, latent, rows, settings, device), weights


def _read(networks: Mapping[str, nn.Module], prompts: int) -> Work:
    """The prompts go through the text encoders, never under autocast."""

    def run() -> None:
        for encoder in text_encoders(networks):
            encoder(torch.zeros(prompts, tokens_of(encoder), dtype=torch.int64))

    return tally(run)


def _decoded(
    vae: Any,
    latent: tuple[int, int, int],
    pixels: tuple[int, int],
    pictures: int,
    settings: ModelSettings,
    device: str,
) -> list[tuple[Work, float]]:
    at_once = min(pictures, max(1, PIXELS_AT_ONCE // (pixels[0] * pixels[1])))
    with _autocast(settings, device):
        work = tally(lambda: vae.decode(torch.empty(at_once, *latent, dtype=vae.dtype)).sample)
    return [(work, pictures / at_once)]


@cache
def teaching(settings: ModelSettings, training: Training, device: str, encoded_at_once: int) -> Teaching:
    """The training of a generator's network on `device`.

    Raises:
        UnknownModel: the generator isn't known.
    """
    part = max(1, -(-training.batch // training.accumulate))
    with imagined():
        networks = pipeline(source_of(settings))
        for each in networks.values():
            each.requires_grad_(False)
        latent = latent_shape(networks, settings.sampling.height, settings.sampling.width)
        with torch.no_grad():
            images, image = _encoded(networks["vae"], _pixels(networks, latent), min(encoded_at_once, part))
            prompt = _read(networks, 1)
        network = denoiser_of(networks)
        copy = _copied(network, training)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        call = denoising(networks, latent, 2 * part)
        conditioning = _bytes_of_prompt(networks)
        step = _step(network, call, training, device)
    base = sum(map(size, networks.values()))
    moments = trained * (MOMENTS[training.optimizer] + (4 if training.ema else 0))
    # Where a step has parts, a part's activations are kept beside the gradients of those before it.
    gradients = 4.0 * trained if training.accumulate > 1 else 0.0
    peak = max(step.memory + gradients + moments + copy, images.memory)
    return Teaching(
        encode_image=image,
        encode_prompt=prompt,
        step=step,
        updated=trained * (20 + 2 * MOMENTS[training.optimizer]),
        memory=base + peak,
        kept=4.0 * latent[0] * latent[1] * latent[2],
        kept_prompt=conditioning,
        checkpoint=trained * (4.0 + MOMENTS[training.optimizer] + (4 if training.ema else 0)),
        model=8.0 * trained if training.lora else base,
    )


def _encoded(vae: Any, pixels: tuple[int, int], images: int) -> tuple[Work, Work]:
    """`images` pictures through the VAE's encoder, as many as fit at once, and one."""
    height, width = pixels
    at_once = min(images, max(1, PIXELS_AT_ONCE // (height * width)))
    several = tally(lambda: vae.encode(torch.empty(at_once, 3, height, width)))
    return several, tally(lambda: vae.encode(torch.empty(1, 3, height, width)))


def _copied(network: nn.Module, training: Training) -> float:
    """Makes the network trainable; the bytes of the frozen copy of it that full fine-tuning needs beside it."""
    lora = training.lora
    if lora is not None:
        _adapt(network, lora.rank)
        return 0.0
    network.requires_grad_(True)
    rounded = [m for m in network.modules() if isinstance(m, MULTIPLIED)] if training.precision in ROUNDED else []
    return size(network) - sum(size(layer) for layer in rounded) / 2


class Adapted(nn.Module):
    """A layer and its low-rank adapter, as peft's is made of: peft itself can't do without numbers."""

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        weight: Any = layer.weight
        self.layer = layer
        self.down = nn.Linear(weight.shape[1], rank, bias=False)
        self.up = nn.Linear(rank, weight.shape[0], bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        added: Tensor = self.layer(rows) + self.up(self.down(rows))
        return added


def _adapt(network: nn.Module, rank: int) -> None:
    for name, layer in list(network.named_modules()):
        if any(name.endswith(f".{target}") for target in ATTENTION):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, Adapted(layer, rank))


def _step(network: nn.Module, call: Callable[[Any], Any], training: Training, device: str) -> Work:
    """A part of a step: the reference's prediction, which takes as much as the network's; that one; its gradient."""
    if training.gradient_checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    on = torch.device("cpu")

    def run() -> None:
        with torch.no_grad(), autocast(on, training.precision):
            call(network)
        with autocast(on, training.precision):
            predicted = call(network)
        predicted.float().square().mean().backward()

    with trainable_attention(torch.device(device)):
        return tally(run)


def _bytes_of_prompt(networks: Mapping[str, nn.Module]) -> float:
    """A prompt's conditioning, float32: what the text encoders say of each token, pooled embeddings left aside."""
    widths = [(tokens_of(each), int(getattr(_config(each), "hidden_size", 0))) for each in text_encoders(networks)]
    return 4.0 * sum(tokens * width for tokens, width in widths)
