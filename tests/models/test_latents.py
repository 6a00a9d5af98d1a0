from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agfsync import catalog
from agfsync.models.latents import clamp_passing_gradient, to_images, to_tensor
from agfsync.training import DifferentiableModel


def test_there_and_back() -> None:
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    (back,) = to_images(to_tensor([Image.fromarray(values)]))
    assert np.array_equal(np.asarray(back), values)


def test_range() -> None:
    pixels = to_tensor([Image.new("RGB", (2, 1), "black"), Image.new("RGB", (2, 1), "white")])
    assert pixels.shape == (2, 3, 1, 2)
    assert pixels.amin() == -1 and pixels.amax() == 1


def test_what_lies_outside_is_cut() -> None:
    (image,) = to_images(torch.full((1, 3, 1, 1), 1.7))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_a_clamp_passes_the_gradient() -> None:
    values = torch.tensor([-3.0, 0.0, 0.25, 1.0, 1.7], requires_grad=True)
    clamped = clamp_passing_gradient(values)
    assert clamped.tolist() == [0, 0, 0.25, 1, 1]
    (gradient,) = torch.autograd.grad((clamped * torch.arange(5)).sum(), values)
    assert gradient.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture(params=["stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3", "flux"])
def model(request: pytest.FixtureRequest) -> DifferentiableModel:
    fixture = {"": "tiny_generator", "-xl": "tiny_xl_generator", "-3": "tiny_sd3_generator"}
    kind = str(request.param)
    folder = request.getfixturevalue(fixture.get(kind.removeprefix("stable-diffusion"), "tiny_flux_generator"))
    settings = {"type": kind, "path": str(folder), "guidance": 3.5, "height": 16, "width": 16, "device": "cpu"}
    made: DifferentiableModel = catalog.build("models", settings)
    return made


def test_decoded_pixels_are_the_images(model: DifferentiableModel) -> None:
    assert isinstance(model, DifferentiableModel)
    source = torch.Generator().manual_seed(0)
    latents = 3 * torch.randn(3, *model.latent_shape, generator=source)
    pixels = model.decode_pixels(latents)
    images = model._latents.decode(latents)  # type: ignore[attr-defined]
    assert pixels.shape == (3, 3, 16, 16) and pixels.dtype == torch.float32
    assert pixels.min() >= 0 and pixels.max() <= 1
    torch.testing.assert_close(pixels, (to_tensor(images) + 1) / 2, rtol=0, atol=0.501 / 255)


def test_saturated_pixels_have_a_gradient_and_the_vae_none(model: DifferentiableModel) -> None:
    vae: Any = model._pipeline.vae  # type: ignore[attr-defined]
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 100
    latents = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    pixels = model.decode_pixels(latents)
    saturated = (pixels == 0) | (pixels == 1)
    assert saturated.float().mean() > 0.1
    (gradient,) = torch.autograd.grad(pixels[saturated].sum(), latents)
    assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_checkpointing_changes_no_gradient(model: DifferentiableModel) -> None:
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    (plain,) = torch.autograd.grad(model.decode_pixels(latents).square().sum(), latents)
    network: Any = model.network
    network.enable_gradient_checkpointing()
    (checkpointed,) = torch.autograd.grad(model.decode_pixels(latents).square().sum(), latents)
    vae: Any = model._pipeline.vae  # type: ignore[attr-defined]
    assert vae.is_gradient_checkpointing
    torch.testing.assert_close(checkpointed, plain)
