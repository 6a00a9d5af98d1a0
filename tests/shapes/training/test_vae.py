import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from agfsync.shapes.training import vae
from agfsync.shapes.training.vae import (
    LATENT_CHANNELS,
    LATENT_NOISE,
    LATENT_SIDE,
    VAE_PLAN,
    VaeImages,
    VaeLesson,
    normalise_channels,
    standardise_latents,
)

MakeActor = Callable[[Any], Any]
LESSON = VaeLesson("vae", VAE_PLAN)


@pytest.fixture
def untrained() -> AutoencoderKL:
    """A tiny autoencoder whose latents have channels of very different mean and variance."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()
    with torch.no_grad():
        model.quant_conv.weight[:LATENT_CHANNELS] *= torch.logspace(-1, 1, LATENT_CHANNELS)[:, None, None, None]
        model.quant_conv.bias[:LATENT_CHANNELS] += torch.linspace(-3, 3, LATENT_CHANNELS)
    return model


@pytest.fixture
def images(rng: random.Random) -> Tensor:
    return vae._draw_images(rng, 6)


@torch.no_grad()
def test_standardised_latents_have_zero_mean_and_unit_variance(untrained: AutoencoderKL, images: Tensor) -> None:
    standardise_latents(untrained, images)
    latents = untrained.encode(images).latent_dist.mean
    assert untrained.config.scaling_factor == vae.SCALING
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(LATENT_CHANNELS), atol=1e-4)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(LATENT_CHANNELS), atol=1e-4)


@torch.no_grad()
def test_standardising_does_to_all_what_the_lesson_does_to_a_batch(untrained: AutoencoderKL, images: Tensor) -> None:
    wanted = normalise_channels(untrained.encode(images).latent_dist.mean)
    standardise_latents(untrained, images)
    assert torch.allclose(untrained.encode(images).latent_dist.mean, wanted, atol=1e-3)


@torch.no_grad()
def test_the_posterior_spreads_as_the_lessons_noise_on_average(untrained: AutoencoderKL, images: Tensor) -> None:
    standardise_latents(untrained, images)
    spread = untrained.encode(images).latent_dist.std
    assert torch.allclose(spread, torch.full_like(spread, LATENT_NOISE / 2))


def test_noise_is_in_proportion_to_each_channel(actor: MakeActor) -> None:
    """Channels of any scale have unit variance when the noise, at most `LATENT_NOISE`, is added."""
    torch.manual_seed(0)
    latents = torch.randn(4, 5, 16, 16) * torch.logspace(-2, 2, 5).view(1, 5, 1, 1)
    normal = normalise_channels(latents)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(5), atol=1e-3)
    (batch,) = LESSON.collect(actor(None), 3, torch.arange(1))
    assert batch.strength_B111.min() > 0 and batch.strength_B111.max() < LATENT_NOISE
    assert batch.noise_BCHW.shape == (VAE_PLAN.batch, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
    assert torch.allclose(batch.noise_BCHW.std((0, 2, 3)), torch.ones(LATENT_CHANNELS), atol=0.1)


def test_images_become_an_eighth_of_their_side() -> None:
    model = vae.build_vae().eval()
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
        assert latents.shape == (1, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
        assert model.decode(latents).sample.shape == (1, 3, 64, 64)


def test_the_loss_reaches_every_weight(untrained: AutoencoderKL, images: Tensor, actor: MakeActor) -> None:
    noise = torch.randn(6, LATENT_CHANNELS, 16, 16)
    loss, metrics = LESSON.loss(actor(untrained), VaeImages(images, torch.full((6, 1, 1, 1), 0.1), noise))
    loss.backward()
    assert metrics["mse"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in untrained.parameters())


def test_an_error_in_a_thing_counts_six_times_one_in_the_background(actor: MakeActor) -> None:
    images, mistake = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    images[:, :, 20:30, 20:30] = 0.8
    mistake[:, :, 20:30, 20:30] = 0.4

    def loss(moved: int) -> float:
        latents = SimpleNamespace(mean=images)
        decoded = SimpleNamespace(sample=images + mistake.roll(moved, dims=3))
        model = SimpleNamespace(
            encode=lambda images: SimpleNamespace(latent_dist=latents), decode=lambda latents: decoded
        )
        return LESSON.loss(actor(model), VaeImages(images, torch.zeros(1, 1, 1, 1), images))[0].item()

    assert loss(moved=0) == pytest.approx(vae.THINGS_WEIGHT * loss(moved=20))
