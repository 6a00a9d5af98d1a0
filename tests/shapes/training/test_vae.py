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
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()
    with torch.no_grad():
        model.quant_conv.weight[:4] *= torch.tensor([0.1, 1.0, 5.0, 20.0])[:, None, None, None]
        model.quant_conv.bias[:4] += torch.tensor([3.0, -1.0, 0.0, 2.0])
    return model


@pytest.fixture
def images(rng: random.Random) -> Tensor:
    return vae._batch(rng, 6)


@torch.no_grad()
def test_standardised_latents_have_zero_mean_and_unit_variance(untrained: AutoencoderKL, images: Tensor) -> None:
    vae._standardise(untrained, images)
    latents = untrained.encode(images).latent_dist.mean
    assert untrained.config.scaling_factor == vae.SCALING
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4)


@torch.no_grad()
def test_standardising_leaves_what_is_decoded(untrained: AutoencoderKL, images: Tensor) -> None:
    before = untrained.encode(images).latent_dist
    drawn, spread = untrained.decode(before.mean).sample, before.std / before.mean.std(dim=(0, 2, 3), keepdim=True)
    vae._standardise(untrained, images)
    after = untrained.encode(images).latent_dist
    assert torch.allclose(untrained.decode(after.mean).sample, drawn, atol=1e-4)
    assert torch.allclose(after.std, spread, rtol=1e-3)


def test_pictures_become_a_quarter_of_their_side() -> None:
    model = vae.build().eval()
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 0.8e6
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
        assert latents.shape == (1, 4, 16, 16) and model.decode(latents).sample.shape == (1, 3, 64, 64)


def test_the_loss_reaches_every_weight(untrained: AutoencoderKL, images: Tensor) -> None:
    loss, figures = vae._loss(untrained, images)
    loss.backward()
    assert figures["mse"] > 0 and figures["kl"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in untrained.parameters())


def test_an_error_in_a_thing_counts_six_times_one_in_the_background() -> None:
    images, mistake = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    images[:, :, 20:30, 20:30] = 0.8
    mistake[:, :, 20:30, 20:30] = 0.4

    def loss(moved: int) -> float:
        latents = SimpleNamespace(sample=lambda: images, kl=lambda: torch.zeros(1))
        decoded = SimpleNamespace(sample=images + mistake.roll(moved, dims=3))
        model = SimpleNamespace(
            encode=lambda images: SimpleNamespace(latent_dist=latents), decode=lambda latents: decoded
        )
        return vae._loss(model, images)[0].item()

    assert loss(moved=0) == pytest.approx(vae.THINGS_WEIGHT * loss(moved=20))
