import random
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from agfsync.shapes.training import vae


@pytest.fixture
def untrained() -> AutoencoderKL:
    """A tiny autoencoder whose latents have channels of very different mean and variance."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=vae.CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()
    with torch.no_grad():
        model.quant_conv.weight[: vae.CHANNELS] *= torch.logspace(-1, 1, vae.CHANNELS)[:, None, None, None]
        model.quant_conv.bias[: vae.CHANNELS] += torch.linspace(-3, 3, vae.CHANNELS)
    return model


@pytest.fixture
def images(rng: random.Random) -> Tensor:
    return vae._batch(rng, 6)


@torch.no_grad()
def test_standardised_latents_have_zero_mean_and_unit_variance(untrained: AutoencoderKL, images: Tensor) -> None:
    vae._standardise(untrained, images)
    latents = untrained.encode(images).latent_dist.mean
    assert untrained.config.scaling_factor == vae.SCALING
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(vae.CHANNELS), atol=1e-4)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(vae.CHANNELS), atol=1e-4)


@torch.no_grad()
def test_standardising_does_to_all_what_the_lesson_does_to_a_batch(
    untrained: AutoencoderKL, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae, "NOISE", 1e-6)
    wanted = vae._disturbed(untrained.encode(images).latent_dist.mean)
    vae._standardise(untrained, images)
    assert torch.allclose(untrained.encode(images).latent_dist.mean, wanted, atol=1e-3)


@torch.no_grad()
def test_the_posterior_spreads_as_the_lessons_noise_on_average(untrained: AutoencoderKL, images: Tensor) -> None:
    vae._standardise(untrained, images)
    spread = untrained.encode(images).latent_dist.std
    assert torch.allclose(spread, torch.full_like(spread, vae.NOISE / 2))


def test_noise_is_in_proportion_to_each_channel(images: Tensor) -> None:
    torch.manual_seed(0)
    scales = torch.logspace(-2, 2, 5).view(1, 5, 1, 1)
    clean = torch.randn(4, 5, 16, 16) * scales
    noisy = vae._disturbed(clean)
    standard = (clean - clean.mean((0, 2, 3), keepdim=True)) / clean.std((0, 2, 3), keepdim=True)
    spread = (noisy - standard).std((2, 3))
    assert torch.allclose(spread, spread.mean(1, keepdim=True).expand_as(spread), rtol=0.2)
    assert spread.min() > 0 and spread.max() < vae.NOISE * 1.2


def test_pictures_become_an_eighth_of_their_side() -> None:
    model = vae.build().eval()
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
        assert latents.shape == (1, vae.CHANNELS, vae.SIDE, vae.SIDE) and model.decode(latents).sample.shape == (
            1,
            3,
            64,
            64,
        )


def test_the_loss_reaches_every_weight(untrained: AutoencoderKL, images: Tensor) -> None:
    loss, figures = vae._loss(untrained, images)
    loss.backward()
    assert figures["mse"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in untrained.parameters())


def test_an_error_in_a_thing_counts_six_times_one_in_the_background() -> None:
    images, mistake = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    images[:, :, 20:30, 20:30] = 0.8
    mistake[:, :, 20:30, 20:30] = 0.4

    def loss(moved: int) -> float:
        latents = SimpleNamespace(mean=images)
        decoded = SimpleNamespace(sample=images + mistake.roll(moved, dims=3))
        model = SimpleNamespace(
            encode=lambda images: SimpleNamespace(latent_dist=latents), decode=lambda latents: decoded
        )
        return vae._loss(model, images)[0].item()

    assert loss(moved=0) == pytest.approx(vae.THINGS_WEIGHT * loss(moved=20))
