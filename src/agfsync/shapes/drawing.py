"""Draws scenes, anti-aliased, at 64x64: each shape is painted at eight times the size and averaged down."""

import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from agfsync.shapes.scene import SIDE, Scene, Thing

Rgb = tuple[int, int, int]
Mask = npt.NDArray[np.float32]

PALETTE: Final[dict[str, Rgb]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 208, 44),
    "green": (46, 160, 67),
    "blue": (38, 98, 217),
    "purple": (124, 58, 180),
    "pink": (244, 114, 182),
    "brown": (121, 72, 38),
}
BACKGROUND_PALETTE: Final[dict[str, Rgb]] = {
    "white": (250, 250, 248),
    "grey": (176, 182, 190),
    "cream": (247, 232, 200),
    "black": (28, 30, 36),
}
STRIPE_PERIOD: Final = 5.0
"""Pixels from one stripe to the next."""
TINT: Final = 0.6
"""How far a stripe's light half is mixed towards white."""
_OVERSAMPLE: Final = 8


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 64x64."""
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    canvas[:] = BACKGROUND_PALETTE[scene.background]
    for thing in scene.things:
        side, offset_x, offset_y = window_of(thing)
        paint(canvas, thing, coverage(thing.shape, thing.radius, offset_x, offset_y, side), PALETTE[thing.color])
    return Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))


def tint(color: Rgb) -> Rgb:
    """The light half of a stripe in `color`."""
    red, green, blue = (round(c + (255 - c) * TINT) for c in color)
    return red, green, blue


def coverage(shape: str, radius: float, dx: float, dy: float, side: int) -> Mask:
    """How much of each pixel of a `side`x`side` window a shape covers, 0..1, its centre `dx`, `dy` off the window's."""
    scale = _OVERSAMPLE
    big = Image.new("L", (side * scale, side * scale), 0)
    middle_x, middle_y = (side / 2 + dx) * scale, (side / 2 + dy) * scale
    outline = [(middle_x + x * radius * scale, middle_y + y * radius * scale) for x, y in _outline(shape)]
    ImageDraw.Draw(big).polygon(outline, fill=255)
    return np.asarray(big.reduce(scale), np.float32) / np.float32(255)


def window_of(thing: Thing) -> tuple[int, float, float]:
    """Return the side in pixels of the window that `thing` is painted in, and the offset of its centre in x and y."""
    return 2 * math.ceil(thing.radius + 2), thing.x % 1, thing.y % 1


def paint(canvas: npt.NDArray[np.float32], thing: Thing, cover: Mask, tone: Rgb) -> None:
    """Paint `thing` in `tone` on `canvas` (H, W, 3) in place, as much of each pixel as `cover` says, 0..1.

    `cover` is as large as `window_of` says.
    """
    side = len(cover)
    left, top = math.floor(thing.x) - side // 2, math.floor(thing.y) - side // 2
    inks = np.empty((side, side, 3), np.float32)
    inks[:] = tone
    if thing.material == "striped":
        light = _stripes(side, thing.y % 1)[:, None, None]
        inks += light * (np.array(tint(tone), np.float32) - inks)
    y0, y1, x0, x1 = max(top, 0), min(top + side, SIDE), max(left, 0), min(left + side, SIDE)
    window = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    alpha = cover[window][..., None]
    canvas[y0:y1, x0:x1] += alpha * (inks[window] - canvas[y0:y1, x0:x1])


def _stripes(side: int, offset: float) -> npt.NDArray[np.float32]:
    """How much of each pixel row is a stripe's light half, 0..1."""
    fine = (np.arange(side * _OVERSAMPLE, dtype=np.float32) + 0.5) / _OVERSAMPLE - side / 2 - offset
    light = ((fine / STRIPE_PERIOD + 0.25) % 1.0) >= 0.5
    rows: npt.NDArray[np.float32] = light.reshape(side, _OVERSAMPLE).mean(axis=1, dtype=np.float32)
    return rows


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """The shape's corners in units of its radius, y down."""
    if shape == "circle":
        return _ring(48, 0.95)
    if shape == "square":
        return ((-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84))
    if shape == "triangle":
        return ((0.0, -0.98), (1.0, 0.8), (-1.0, 0.8))
    if shape == "star":
        tips = [(1.08 if k % 2 == 0 else 0.44, math.pi * k / 5 - math.pi / 2) for k in range(10)]
        return tuple((r * math.cos(a), r * math.sin(a) + 0.06) for r, a in tips)
    if shape == "heart":
        return tuple(_heart(2 * math.pi * k / 64) for k in range(64))
    if shape == "cross":
        arm = ((-0.34, -0.98), (0.34, -0.98), (0.34, -0.34))
        return tuple((x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in arm)
    raise ValueError(f"no shape is called {shape}")


def _ring(corners: int, radius: float) -> tuple[tuple[float, float], ...]:
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return tuple((radius * math.cos(a), radius * math.sin(a)) for a in angles)


def _heart(t: float) -> tuple[float, float]:
    """The well-known heart curve, scaled to the unit circle."""
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return x / 16.5, -(y + 2.5) / 15.5
