"""Ways to spoil a picture by degrees, each with the word that a caption has for it."""

import random
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from agfsync.shapes.scene import SIDE

Way = Callable[[Image.Image, float, random.Random], Image.Image]


def spoil(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    """`image` spoilt in a way left to chance; `degree` 0 leaves it as it is, 1 ruins it."""
    if degree == 0:
        return image
    return rng.choice(list(WAYS.values()))(image, degree, rng)


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


WAYS: Final[dict[str, Way]] = {"blurry": _blur, "grainy": _grain, "faded": _wash, "coarse": _coarsen, "bent": _bend}
