"""The autoencoder: 64x64 pictures to 8x8x16 latents and back."""

import math
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from agfsync.models.latents import to_tensor
from agfsync.shapes.drawing import draw
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_scene

PLAN = Plan("vae", steps=6300, batch=16, learning_rate=2e-3, ema=0.998, checkpoint_every=500)
SIDE, CHANNELS = 8, 16
"""An eighth of the picture's side, as Stable Diffusion's, so that a thing is a few cells; four times its channels, for
a cell holds a good part of a thing: two colours, a texture and an outline."""
NOISE = 0.3
"""Most noise, in the latents' standard deviations, that a picture comes through: a denoiser's latents are never exact.

Without it the colours fill the latents' range and the outlines hide in their last digits, where a denoiser loses them.
"""
SCALING = 0.35
"""The denoiser's latents' standard deviation: below 1 for more noise, as small pictures need (arXiv 2301.10972)."""
THINGS_WEIGHT = 6.0
"""How much more a pixel of a thing counts than one of the background, which fills most of a picture."""


def build() -> AutoencoderKL:
    """An untrained autoencoder of 1.7 M parameters."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def teach(folder: Path, tell: Tell, plan: Plan = PLAN) -> AutoencoderKL:
    """Trains an autoencoder on random scenes; whose latents have zero mean and the same variance in each channel."""
    torch.manual_seed(plan.seed)
    vae = build().to(device())
    train(plan, vae, lambda rng: _loss(vae, _batch(rng, plan.batch)), folder, tell)
    _standardise(vae, _batch(random.Random("standardise"), 512))
    return vae


@torch.no_grad()
def _standardise(vae: AutoencoderKL, images_BCHW: Tensor) -> None:
    """Folds the latents' standardisation into the encoder's last 1x1 convolution; the decoder knows no others.

    One scaling factor for all channels, as Stable Diffusion has, would leave the quiet channels drowned in noise.
    """
    latents_BCHW = vae.encode(images_BCHW).latent_dist.mean
    mean_C, std_C = latents_BCHW.mean(dim=(0, 2, 3)), latents_BCHW.std(dim=(0, 2, 3))
    into = vae.quant_conv
    into.weight[:CHANNELS] /= std_C[:, None, None, None]
    into.bias[:CHANNELS] = (into.bias[:CHANNELS] - mean_C) / std_C
    into.weight[CHANNELS:] = 0
    into.bias[CHANNELS:] = 2 * math.log(NOISE / 2)
    vae.register_to_config(scaling_factor=SCALING)


def _batch(rng: random.Random, size: int) -> Tensor:
    return to_tensor([draw(any_scene(rng)) for _ in range(size)]).to(device())


def _loss(vae: AutoencoderKL, images_BCHW: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Absolute and squared error, weighted towards the things, of what is decoded from noisy latents."""
    with autocast():
        latents_BCHW = vae.encode(images_BCHW).latent_dist.mean
        drawn_BCHW = vae.decode(_disturbed(latents_BCHW.float())).sample
    error_BCHW = drawn_BCHW.float() - images_BCHW
    ground_BC11 = images_BCHW[:, :, :1, :1]
    thing_B1HW = ((images_BCHW - ground_BC11).abs().amax(dim=1, keepdim=True) > 0.05).float()
    weight_B1HW = 1 + (THINGS_WEIGHT - 1) * thing_B1HW
    weight_B1HW = weight_B1HW / weight_B1HW.mean()
    misses = (weight_B1HW * (error_BCHW.abs() + error_BCHW.square())).mean()
    return misses, {"mse": error_BCHW.square().mean().item()}


def _disturbed(latents_BCHW: Tensor) -> Tensor:
    """Latents standardised within the batch, with noise of a random strength each: scale is no way out of it."""
    std_C, mean_C = torch.std_mean(latents_BCHW, dim=(0, 2, 3), keepdim=True)
    strength_B111 = NOISE * torch.rand(len(latents_BCHW), 1, 1, 1, device=latents_BCHW.device)
    return (latents_BCHW - mean_C) / (std_C + 1e-6) + strength_B111 * torch.randn_like(latents_BCHW)
