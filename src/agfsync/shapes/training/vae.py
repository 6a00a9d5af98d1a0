"""The autoencoder: 64x64 images to 8x8x16 latents and back."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from agfsync.models.latents import to_tensor
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.training.images import sample_scene
from agfsync.shapes.training.lessons import Lesson, Pupil, WholeBatch, plan_lesson, training_device
from agfsync.training.objective import Actor, Metrics
from agfsync.training.precision import autocast

VAE_PLAN = plan_lesson(steps=6300, batch=16, learning_rate=2e-3, checkpoint_every=500)
LATENT_SIDE, LATENT_CHANNELS = 8, 16
"""An eighth of the image's side, as in Stable Diffusion, so that a thing covers a few cells; but four times as many
channels, since a cell holds a large part of a thing: two colours, a texture and an outline."""
LATENT_NOISE = 0.3
"""Largest noise on the latents in training, in their standard deviations, since a denoiser's latents are never exact.

Without noise the colours fill the latents' range and the outlines are in their last digits, where a denoiser loses
them.
"""
SCALING = 0.35
"""Standard deviation of the denoiser's latents: below 1 for more noise, as small images need (arXiv 2301.10972)."""
THINGS_WEIGHT = 6.0
"""Weight of a thing's pixel relative to one of the background, which fills most of an image."""


def build_vae() -> AutoencoderKL:
    """Return an untrained autoencoder of 1.7 M parameters."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def prepare_vae(folder: Path) -> Pupil:
    """Return an autoencoder to train; when saved, each channel of its latents has zero mean and equal variance."""
    torch.manual_seed(VAE_PLAN.seed)
    vae = build_vae().to(training_device())

    def save(target: Path) -> None:
        standardise_latents(vae, _draw_images(random.Random("standardise"), 512))
        vae.to(torch.float16).save_pretrained(target)

    return Pupil(vae, [VaeLesson("vae", VAE_PLAN)], save)


def load_vae(folder: Path) -> Any:
    """Load the trained autoencoder in `folder`, in float32."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).to(training_device(), torch.float32)
    vae.register_to_config(_name_or_path="")  # or else the generator's files would contain the path
    return vae


@dataclass(frozen=True)
class VaeImages(WholeBatch):
    """Images (B, 3, H, W), and the noise on the latents of each with its strength (B, 1, 1, 1)."""

    images_BCHW: Tensor
    strength_B111: Tensor
    noise_BCHW: Tensor


@dataclass(frozen=True)
class VaeLesson(Lesson):
    """Absolute and squared error of the images decoded from noisy latents, weighted towards the things."""

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[VaeImages]:
        """Draw random scenes."""
        images_BCHW = _draw_images(self.seed_step(step), self.plan.batch)
        size, device = len(images_BCHW), actor.device
        strength_B111 = LATENT_NOISE * torch.rand(size, 1, 1, 1, device=device)
        noise_BCHW = torch.randn(size, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE, device=device)
        return [VaeImages(images_BCHW, strength_B111, noise_BCHW)]

    def loss(self, actor: Actor, batch: VaeImages) -> tuple[Tensor, Metrics]:
        """Return the weighted error, and the unweighted mean squared error as a metric."""
        vae: Any = actor.network
        images_BCHW = batch.images_BCHW
        with autocast(actor.device, actor.precision):
            latents_BCHW = vae.encode(images_BCHW).latent_dist.mean
            noisy_BCHW = normalise_channels(latents_BCHW.float()) + batch.strength_B111 * batch.noise_BCHW
            decoded_BCHW = vae.decode(noisy_BCHW).sample
        error_BCHW = decoded_BCHW.float() - images_BCHW
        thing_B1HW = (images_BCHW - images_BCHW[:, :, :1, :1]).abs().amax(dim=1, keepdim=True) > 0.05
        weight_B1HW = 1 + (THINGS_WEIGHT - 1) * thing_B1HW.float()
        weight_B1HW = weight_B1HW / weight_B1HW.mean()
        loss = (weight_B1HW * (error_BCHW.abs() + error_BCHW.square())).mean()
        return loss, {"loss": loss.detach(), "mse": error_BCHW.detach().square().mean()}


def normalise_channels(latents_BCHW: Tensor) -> Tensor:
    """Normalise each channel to zero mean and unit variance within the batch: larger latents would drown the noise."""
    std_C, mean_C = torch.std_mean(latents_BCHW, dim=(0, 2, 3), keepdim=True)
    return (latents_BCHW - mean_C) / (std_C + 1e-6)


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, images_BCHW: Tensor) -> None:
    """Fold the latents' standardisation into the encoder's last 1x1 convolution; the decoder was trained on these.

    With one scaling factor for all channels, as in Stable Diffusion, noise would drown channels of low variance.
    """
    latents_BCHW = vae.encode(images_BCHW).latent_dist.mean
    mean_C, std_C = latents_BCHW.mean(dim=(0, 2, 3)), latents_BCHW.std(dim=(0, 2, 3))
    into = vae.quant_conv
    into.weight[:LATENT_CHANNELS] /= std_C[:, None, None, None]
    into.bias[:LATENT_CHANNELS] = (into.bias[:LATENT_CHANNELS] - mean_C) / std_C
    into.weight[LATENT_CHANNELS:] = 0
    into.bias[LATENT_CHANNELS:] = 2 * math.log(LATENT_NOISE / 2)
    vae.register_to_config(scaling_factor=SCALING)


def _draw_images(rng: random.Random, size: int) -> Tensor:
    return to_tensor([draw_scene(sample_scene(rng)) for _ in range(size)]).to(training_device())
