"""The autoencoder: 64x64 pictures to 16x16x4 latents and back."""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from agfsync.generators.tensors import to_tensor
from agfsync.shapes.drawing import draw
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_scene

PLAN = Plan("vae", steps=4000, batch=8, learning_rate=1.5e-3, ema=0.998, checkpoint_every=500)
KL_WEIGHT = 1e-5
SCALING = 0.5
"""The denoiser's latents' standard deviation: below 1 for more noise, as small pictures need (arXiv 2301.10972)."""
THINGS_WEIGHT = 6.0
"""How much more a pixel of a thing counts than one of the background, which fills most of a picture."""


def build() -> AutoencoderKL:
    """An untrained autoencoder of 0.65 M parameters."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
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
    """Folds the latents' standardisation into the 1x1 convolutions on both sides of them.

    One scaling factor for all channels, as Stable Diffusion has, would leave the quiet channels drowned in noise.
    """
    latents_BCHW = vae.encode(images_BCHW).latent_dist.mean
    mean_C, std_C = latents_BCHW.mean(dim=(0, 2, 3)), latents_BCHW.std(dim=(0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean_C)
    into.weight[:channels] /= std_C[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean_C) / std_C
    into.bias[channels:] -= 2 * std_C.log()
    out.bias += out.weight[:, :, 0, 0] @ mean_C
    out.weight *= std_C[None, :, None, None]
    vae.register_to_config(scaling_factor=SCALING)


def _batch(rng: random.Random, size: int) -> Tensor:
    return to_tensor([draw(any_scene(rng)) for _ in range(size)]).to(device())


def _loss(vae: AutoencoderKL, images_BCHW: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Absolute and squared error, weighted towards the things, and a slight pull of the latents towards N(0, 1)."""
    with autocast():
        posterior = vae.encode(images_BCHW).latent_dist
        drawn_BCHW = vae.decode(posterior.sample()).sample
    error_BCHW = drawn_BCHW.float() - images_BCHW
    ground_BC11 = images_BCHW[:, :, :1, :1]
    thing_B1HW = ((images_BCHW - ground_BC11).abs().amax(dim=1, keepdim=True) > 0.05).float()
    weight_B1HW = 1 + (THINGS_WEIGHT - 1) * thing_B1HW
    weight_B1HW = weight_B1HW / weight_B1HW.mean()
    misses = (weight_B1HW * (error_BCHW.abs() + error_BCHW.square())).mean()
    kl = posterior.kl().mean() / images_BCHW[0].numel()
    return misses + KL_WEIGHT * kl, {"mse": error_BCHW.square().mean().item(), "kl": kl.item()}
