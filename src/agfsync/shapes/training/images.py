"""The images that the models learn from: random scenes, and ways to spoil a drawing by degrees."""

import random
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from agfsync.shapes.grammar import SHAPES_CATEGORIES, invent_spec
from agfsync.shapes.scene import SIDE, CrowdedError, Scene, Spec, compose_scene, sample_spec

Spoiler = Callable[[Image.Image, float, random.Random], Image.Image]


def sample_scene(rng: random.Random, things: int | None = None) -> Scene:
    """Draw a random scene of one to four things, or of exactly `things`, in one to four groups."""
    while True:
        spec = sample_spec(rng, groups=rng.choice([1, 2, 2, 3, 3, 4]), things=things or rng.choice([1, 2, 3, 4]))
        if things is None or sum(group.count for group in spec.groups) == things:
            try:
                return compose_scene(spec, rng)
            except CrowdedError:
                continue


def sample_captioned_scene(rng: random.Random, categories: Sequence[str] = SHAPES_CATEGORIES) -> tuple[Spec, Scene]:
    """Draw a random specification of one of `categories`, and a random scene that fulfils it."""
    while True:
        spec = invent_spec(rng.choice(categories), rng)
        try:
            return spec, compose_scene(spec, rng)
        except CrowdedError:
            continue


def spoil_image(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    """Spoil an image in a random way; `degree` is 0 for no change to 1 for the strongest."""
    return image if degree == 0 else rng.choice(list(SPOILERS.values()))(image, degree, rng)


def _blur(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.4 + 2.6 * degree))


def _add_grain(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 5 + 60 * degree, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _fade(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    faded = ImageEnhance.Color(image).enhance(1 - 0.8 * degree)
    return ImageEnhance.Contrast(faded).enhance(1 - 0.7 * degree)


def _coarsen(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    side = max(8, round(SIDE * (0.75 - 0.6 * degree)))
    return image.resize((side, side), Image.Resampling.BILINEAR).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _bend(image: Image.Image, degree: float, rng: random.Random) -> Image.Image:
    """Shift each row and column along a sine wave, which distorts shapes."""
    phase, length = rng.uniform(0, 2 * np.pi), rng.uniform(5, 12)
    shift = np.round((0.5 + 4 * degree) * np.sin(np.arange(SIDE) / length * 2 * np.pi + phase)).astype(int)
    rows = np.stack([np.roll(row, s, axis=0) for row, s in zip(np.asarray(image), shift, strict=True)])
    both = np.stack([np.roll(rows[:, i], shift[i], axis=0) for i in range(SIDE)], axis=1)
    return Image.fromarray(both)


SPOILERS: Final[dict[str, Spoiler]] = {
    "blurry": _blur,
    "grainy": _add_grain,
    "faded": _fade,
    "coarse": _coarsen,
    "bent": _bend,
}
"""Words of captions -> the functions that spoil an image in this way."""
