"""The aesthetic head: rates a picture 0..10 from its CLIP embedding, having seen good pictures spoilt by degrees."""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from transformers import CLIPModel

from agfsync.generators.tensors import to_tensor
from agfsync.scorers.aesthetic import AestheticHead
from agfsync.shapes.drawing import draw
from agfsync.shapes.scene import SIDE
from agfsync.shapes.training.loop import Plan, Tell, device, train
from agfsync.shapes.training.pictures import any_scene

PLAN = Plan("aesthetic", steps=1500, batch=128, learning_rate=1e-3)
POOL = 6000
"""Pictures that are embedded once, each spoilt in one way and to one degree."""
BEST, WORST = 9.0, 1.0
"""Ratings of an untouched picture and of one spoilt to the full."""


def teach(clip: CLIPModel, folder: Path, tell: Tell, plan: Plan = PLAN) -> AestheticHead:
    """Trains a head on embeddings of pictures and the degree to which they were spoilt."""
    torch.manual_seed(plan.seed)
    head = AestheticHead(clip.config.projection_dim, (64, 32), activation="relu").to(device())
    embeddings, ratings = _pool(clip, random.Random(f"aesthetic/{plan.seed}"))

    def loss(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.tensor(rng.sample(range(len(ratings)), plan.batch), device=ratings.device)
        error = head(embeddings[chosen]) - ratings[chosen]
        return error.square().mean(), {"rating error": error.abs().mean().item()}

    train(plan, head, loss, folder, tell)
    return head


def spoil(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    """`image` blurred, made grainy, washed out, coarse or bent, as chance has it; `degree` 0 leaves it, 1 ruins it."""
    if degree == 0:
        return image
    way = rng.choice((_blur, _grain, _wash, _coarsen, _bend))
    return way(image, degree, rng)


def rating(degree: float) -> float:
    """The rating that a picture spoilt to `degree` deserves."""
    return BEST - (BEST - WORST) * degree


@torch.no_grad()
def _pool(clip: CLIPModel, rng: random.Random) -> tuple[Tensor, Tensor]:
    degrees = [rng.choice((0.0, rng.random())) for _ in range(POOL)]
    embeddings = []
    for start in range(0, POOL, 100):
        images = [spoil(draw(any_scene(rng)), degree, rng) for degree in degrees[start : start + 100]]
        embeddings.append(clip.get_image_features(pixel_values=to_tensor(images).to(device())).pooler_output)
    ratings = torch.tensor([rating(degree) for degree in degrees], device=device())
    return F.normalize(torch.cat(embeddings), dim=-1), ratings


def _blur(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.4 + 2.6 * degree))


def _grain(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 5 + 60 * degree, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _wash(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    faded = ImageEnhance.Color(image).enhance(1 - 0.8 * degree)
    return ImageEnhance.Contrast(faded).enhance(1 - 0.7 * degree)


def _coarsen(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    side = max(8, round(SIDE * (0.75 - 0.6 * degree)))
    return image.resize((side, side), Image.Resampling.BILINEAR).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _bend(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    """Each row and column shifted along a wave, which makes shapes lose their form."""
    phase, length = rng.uniform(0, 2 * np.pi), rng.uniform(5, 12)
    shift = np.round((0.5 + 4 * degree) * np.sin(np.arange(SIDE) / length * 2 * np.pi + phase)).astype(int)
    pixels = np.asarray(image)
    rows = np.stack([np.roll(row, s, axis=0) for row, s in zip(pixels, shift, strict=True)])
    both = np.stack([np.roll(rows[:, i], shift[i], axis=0) for i in range(SIDE)], axis=1)
    return Image.fromarray(both)
