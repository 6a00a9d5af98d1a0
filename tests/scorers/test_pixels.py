"""Rewards of pixels against scores of images, and the preprocessing of tensors against that of images."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.scorers import DifferentiableScorer, Item, Measurement
from agfsync.scorers.imagereward import ImageReward
from agfsync.scorers.pixels import PixelProcessor, pad_pixels_to_square, resize_pixels
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.training.images import sample_scene

SCORERS: dict[str, dict[str, str]] = {
    "clip": {"path": "clip"},
    "clip, of a siglip": {"path": "siglip"},
    "clip, of a siglip2": {"path": "siglip2"},
    "aesthetic": {"path": "clip", "head": "aesthetic"},
    "pickscore": {"path": "clip"},
    "hpsv2": {"path": "clip", "weights": "hps.safetensors"},
    "hpsv2.1": {"path": "clip", "weights": "hps.safetensors"},
    "hpsv3": {"path": "qwen2", "weights": "HPSv3.safetensors"},
    "imagereward": {"path": "matcher", "weights": "reward.safetensors"},
}
TOLERANCE = 0.5
"""as `DifferentiableScorer.rewards` says"""
PROCESSORS: dict[str, Any] = {
    "clip": CLIPImageProcessorPil(),
    "a small clip": CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 41, "width": 48}),
    "a bilinear clip": CLIPImageProcessorPil(resample=2),
    "siglip": SiglipImageProcessorPil(),
    "siglip without mean": SiglipImageProcessorPil(do_normalize=False),
    "siglip2": Siglip2ImageProcessorPil(),
    "blip": BlipImageProcessorPil(),
}


def shapes_image(seed: int) -> Image.Image:
    return draw_scene(sample_scene(random.Random(seed)))


def smooth_image(seed: int, width: int = 512, height: int = 512) -> Image.Image:
    """Noise of a few waves an image, as a photo has."""
    source = np.random.default_rng(seed)
    small = Image.fromarray(source.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


IMAGES = {
    "Shapes": [shapes_image(n) for n in range(4)],
    "smooth, 512": [smooth_image(n) for n in range(4)],
    "smooth, wide": [smooth_image(n, 300, 200) for n in range(2)],
    "smooth, high": [smooth_image(n, 67, 131) for n in range(2)],
}


def to_pixels(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.tensor(np.asarray(image)) for image in images]).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def build(folders: Path) -> Callable[[str], DifferentiableScorer]:
    def make(name: str) -> DifferentiableScorer:
        settings = {key: str(folders / place) for key, place in SCORERS[name].items()}
        made: DifferentiableScorer = catalog.build("scorers", settings | {"type": name.partition(",")[0]})
        return made

    return make


def scores(scorer: DifferentiableScorer, images: list[Image.Image], prompts: list[str]) -> Tensor:
    items = [Item(prompt, (), image) for prompt, image in zip(prompts, images, strict=True)]
    results = scorer.score(items)
    return torch.tensor([result.value for result in results if isinstance(result, Measurement)])


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", SCORERS)
def test_rewards_are_scores(name: str, kind: str, build: Callable[[str], DifferentiableScorer]) -> None:
    scorer, images = build(name), IMAGES[kind]
    prompts = ["a red star", "two blue circles", "a square", "a star left of the circle"][: len(images)]
    rewards = scorer.rewards(to_pixels(images), prompts)
    assert rewards.shape == (len(images),) and rewards.dtype == torch.float32
    inside = rewards if name == "imagereward" else rewards.clamp(0, 100)
    torch.testing.assert_close(inside, scores(scorer, images, prompts), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", ["clip", "aesthetic"])
def test_rewards_of_the_embedded_models_are_scores(name: str, kind: str) -> None:
    head = {"head": "embedded:aesthetic"} if name == "aesthetic" else {}
    scorer = catalog.build("scorers", {"type": name, "path": "embedded:clip", **head})
    images = IMAGES[kind]
    prompts = ["a red star", "two blue circles", "a square", "a star left of the circle"][: len(images)]
    rewards = scorer.rewards(to_pixels(images), prompts)
    # Their weights aren't random, which makes them less sensitive to rounding.
    torch.testing.assert_close(rewards.clamp(0, 100), scores(scorer, images, prompts), rtol=0, atol=TOLERANCE / 10)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_inputs_are_the_processors(name: str, kind: str) -> None:
    processor, images = PROCESSORS[name], IMAGES[kind]
    wanted = processor(images, return_tensors="pt")
    found = PixelProcessor(processor, "a model")(to_pixels(images))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        # Half a color in each pass, and one more in a pass by Pillow's whole numbers.
        levels = 2.01 / 255 / min(processor.image_std) if key == "pixel_values" else 0
        torch.testing.assert_close(found[key], tensor.to(found[key].dtype), rtol=0, atol=levels)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_resize_is_cut_after_each_pass(mode: str) -> None:
    checks = (np.indices((24, 30)).sum(0) // 3 % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([checks] * 3, -1))
    for size in ((24, 30), (57, 30), (24, 71), (57, 71), (11, 13)):
        by_pillow = image.resize(size[::-1], Image.Resampling[mode.upper()])
        found = resize_pixels(to_pixels([image]), size, mode)
        torch.testing.assert_close(found, to_pixels([by_pillow]), rtol=0, atol=1.01 / 255)
    assert found.amin() >= 0 and found.amax() <= 1


def test_a_pixel_cut_by_a_resize_keeps_its_gradient() -> None:
    white = torch.zeros(1, 3, 8, 8)
    white[..., 4:] = 1
    white.requires_grad_(True)
    resized = resize_pixels(white, (16, 16), "bicubic")
    assert (resized == 1).any() and (resized == 0).any()
    (gradient,) = torch.autograd.grad(resized.sum(), white)
    assert (gradient > 0).all()


def test_an_oblong_image_is_put_on_a_square() -> None:
    image = smooth_image(0, 40, 13)
    square = Image.new("RGB", (40, 40))
    square.paste(image, (0, 13))
    assert torch.equal(pad_pixels_to_square(to_pixels([image])), to_pixels([square]))
    high, tall = image.transpose(Image.Transpose.ROTATE_90), Image.new("RGB", (40, 40))
    tall.paste(high, (13, 0))
    assert torch.equal(pad_pixels_to_square(to_pixels([high])), to_pixels([tall]))


@pytest.mark.parametrize("name", SCORERS)
def test_the_gradient_is_that_of_the_reward(name: str, build: Callable[[str], DifferentiableScorer]) -> None:
    scorer, prompts = build(name), ["a red star", "two blue circles"]
    # Away from the ends of the range, where a resize could be cut.
    pixels = (0.3 + 0.4 * to_pixels(IMAGES["smooth, high"][:2])).requires_grad_(True)
    (gradient,) = torch.autograd.grad(scorer.rewards(pixels, prompts).sum(), pixels)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        up, down = (scorer.rewards(pixels + step * direction, prompts).double().sum() for step in (2e-2, -2e-2))
    assert float(up - down) / 4e-2 == pytest.approx(float(gradient.norm()), rel=0.1)


@pytest.mark.parametrize("name", SCORERS)
def test_black_and_white_images_have_a_gradient(name: str, build: Callable[[str], DifferentiableScorer]) -> None:
    pixels = torch.stack([torch.zeros(3, 20, 20), torch.ones(3, 20, 20)])
    pixels[:, :, 8:12, 8:12] = 0.5
    pixels.requires_grad_(True)
    (gradient,) = torch.autograd.grad(build(name).rewards(pixels, ["a star", "a circle"]).sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert ((gradient != 0).flatten(1).float().mean(1) > 0.9).all()


def test_a_cosine_below_0_has_a_gradient() -> None:
    scorer = catalog.build("scorers", {"type": "clip", "path": "embedded:clip"})
    pixels = to_pixels(IMAGES["smooth, 512"][:1]).requires_grad_(True)
    reward = scorer.rewards(pixels, ["a red star"])
    assert reward.item() < 0 == scores(scorer, IMAGES["smooth, 512"][:1], ["a red star"]).item()
    (gradient,) = torch.autograd.grad(reward.sum(), pixels)
    assert gradient.abs().max() > 0


def test_a_standardised_imagereward_is_the_reward(build: Callable[[str], DifferentiableScorer]) -> None:
    for reward in (-9.0, -1.5, 0.0, 2.0, 5.0):
        value = torch.tensor([reward]).sigmoid().mul(100).requires_grad_(True)
        found = ImageReward.standardise(value)
        assert found.item() == pytest.approx(reward, abs=1e-3)
    scorer = build("imagereward")
    pixels = to_pixels(IMAGES["Shapes"][:1]).requires_grad_(True)
    value = scorer.rewards(pixels, ["a star"])
    (plain,) = torch.autograd.grad(value.sum(), pixels, retain_graph=True)
    (gradient,) = torch.autograd.grad(ImageReward.standardise(value).sum(), pixels)
    share = value.detach() / 100
    torch.testing.assert_close(gradient, plain / (100 * share * (1 - share)))


@pytest.mark.parametrize("name", SCORERS)
def test_weights_get_no_gradient_and_no_graph_is_kept(name: str, build: Callable[[str], DifferentiableScorer]) -> None:
    scorer = build(name)
    assert not scorer.rewards(to_pixels(IMAGES["Shapes"][:1]), ["a star"]).requires_grad
    assert isinstance(scorer, DifferentiableScorer)


@pytest.mark.parametrize("name", SCORERS)
def test_half_precision_rewards_are_nearly_the_same(name: str, folders: Path) -> None:
    settings = {key: str(folders / place) for key, place in SCORERS[name].items()} | {"device": "cpu"}
    settings |= {"type": name.partition(",")[0]}
    full, half = (catalog.build("scorers", settings | {"dtype": dtype}) for dtype in ("fp32", "bf16"))
    pixels = to_pixels(IMAGES["Shapes"]).requires_grad_(True)
    prompts = ["a red star", "two blue circles", "a square", "a star left of the circle"]
    rewards = half.rewards(pixels, prompts)
    torch.testing.assert_close(rewards, full.rewards(pixels, prompts), rtol=0, atol=6)
    (gradient,) = torch.autograd.grad(rewards.sum(), pixels)
    assert rewards.dtype == gradient.dtype == torch.float32 and torch.isfinite(gradient).all()


def test_scorers_without_a_gradient_are_told_apart() -> None:
    classes = {name: catalog.find("scorers", name) for name in catalog.CATALOG["scorers"]}
    # A vp-score is made by a training: test_reward_networks.py follows its gradient.
    assert {name for name, kind in classes.items() if hasattr(kind, "rewards")} == {
        "vp-score",
        *(name.partition(",")[0] for name in SCORERS),
    }


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (CLIPImageProcessorPil(resample=1), "resamples by Pillow's filter 1"),
        (CLIPImageProcessorPil(do_rescale=False), "doesn't scale colors to 0..1"),
        (CLIPImageProcessorPil(rescale_factor=1 / 127.5), "doesn't scale colors to 0..1"),
        (CLIPImageProcessorPil(do_center_crop=False), "neither crops nor resizes to a fixed size"),
        (CLIPImageProcessorPil(size={"shortest_edge": 100}), "crops more than it resizes to"),
        (CLIPImageProcessorPil(do_resize=False), "crops more than it resizes to"),
        (
            CLIPImageProcessorPil(size={"shortest_edge": 9, "longest_edge": 12}),
            "resizes by longest_edge, shortest_edge",
        ),
        (CLIPImageProcessorPil(do_pad=True, pad_size={"height": 300, "width": 300}), "takes steps of its own"),
        (type("Own", (CLIPImageProcessorPil,), {"_preprocess": lambda self: None})(), "takes steps of its own"),
    ],
)
def test_an_unknown_step_is_an_error_of_one_line(processor: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=f"a model gives no gradient of its scores: .* {reason}") as raised:
        PixelProcessor(processor, "a model")
    assert "\n" not in str(raised.value)
