"""Draws scenes at 64x64 with anti-aliasing: each shape is drawn at eight times the size and averaged down."""

import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from agfsync.shapes.scene import SIDE, Scene, Thing

Rgb = tuple[int, int, int]
FloatArray = npt.NDArray[np.float32]

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
"""Period of the stripes in pixels."""
TINT: Final = 0.6
"""Share of white in the light half of a stripe."""
_OVERSAMPLE: Final = 8


def draw_scene(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB image of 64x64."""
    canvas = fill_canvas(scene.background)
    for thing in scene.things:
        paint_thing(canvas, thing, cover_thing(thing), PALETTE[thing.color])
    return finish_canvas(canvas)


def fill_canvas(background: str) -> FloatArray:
    """Return a canvas of the background's color, (H, W, 3) in 0..255."""
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    canvas[:] = BACKGROUND_PALETTE[background]
    return canvas


def finish_canvas(canvas: FloatArray) -> Image.Image:
    """Convert a canvas to an RGB image."""
    return Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))


def tint_color(color: Rgb) -> Rgb:
    """Return the color of the light half of a stripe in `color`."""
    red, green, blue = (round(c + (255 - c) * TINT) for c in color)
    return red, green, blue


def cover_shape(shape: str, radius: float, dx: float, dy: float, side: int) -> FloatArray:
    """Return the share, in 0..1, of each pixel of a `side`x`side` window that a shape covers.

    The offset of the shape's centre from the window's is `dx`, `dy` pixels.
    """
    scale = _OVERSAMPLE
    big = Image.new("L", (side * scale, side * scale), 0)
    middle_x, middle_y = (side / 2 + dx) * scale, (side / 2 + dy) * scale
    outline = [(middle_x + x * radius * scale, middle_y + y * radius * scale) for x, y in _outline(shape)]
    ImageDraw.Draw(big).polygon(outline, fill=255)
    return np.asarray(big.reduce(scale), np.float32) / np.float32(255)


def cover_thing(thing: Thing) -> FloatArray:
    """Return `cover_shape` of a thing, in the smallest window around it."""
    return cover_shape(thing.shape, thing.radius, thing.x % 1, thing.y % 1, 2 * math.ceil(thing.radius + 2))


def paint_thing(canvas: FloatArray, thing: Thing, cover: FloatArray, tone: Rgb) -> None:
    """Paint `thing` in `tone` on `canvas` in place; `cover` is the opacity of each pixel, shaped as `cover_thing`."""
    side = len(cover)
    left, top = math.floor(thing.x) - side // 2, math.floor(thing.y) - side // 2
    inks = np.empty((side, side, 3), np.float32)
    inks[:] = tone
    if thing.material == "striped":
        light = _stripe_rows(side, thing.y % 1)[:, None, None]
        inks += light * (np.array(tint_color(tone), np.float32) - inks)
    y0, y1, x0, x1 = max(top, 0), min(top + side, SIDE), max(left, 0), min(left + side, SIDE)
    window = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    alpha = cover[window][..., None]
    canvas[y0:y1, x0:x1] += alpha * (inks[window] - canvas[y0:y1, x0:x1])


def _stripe_rows(side: int, offset: float) -> FloatArray:
    """Return the share, in 0..1, of each pixel row that is in the light half of a stripe."""
    fine = (np.arange(side * _OVERSAMPLE, dtype=np.float32) + 0.5) / _OVERSAMPLE - side / 2 - offset
    light = ((fine / STRIPE_PERIOD + 0.25) % 1.0) >= 0.5
    rows: FloatArray = light.reshape(side, _OVERSAMPLE).mean(axis=1, dtype=np.float32)
    return rows


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Return the shape's corners in units of its radius, y down."""
    match shape:
        case "circle":
            angles = [2 * math.pi * k / 48 for k in range(48)]
            return tuple((0.95 * math.cos(a), 0.95 * math.sin(a)) for a in angles)
        case "square":
            return ((-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84))
        case "triangle":
            return ((0.0, -0.98), (1.0, 0.8), (-1.0, 0.8))
        case "star":
            tips = [(1.08 if k % 2 == 0 else 0.44, math.pi * k / 5 - math.pi / 2) for k in range(10)]
            return tuple((r * math.cos(a), r * math.sin(a) + 0.06) for r, a in tips)
        case "heart":
            return tuple(_heart_point(2 * math.pi * k / 64) for k in range(64))
        case "cross":
            arm = ((-0.34, -0.98), (0.34, -0.98), (0.34, -0.34))
            turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
            return tuple((x * c - y * s, x * s + y * c) for c, s in turns for x, y in arm)
    raise ValueError(f"no shape is called {shape}")


def _heart_point(t: float) -> tuple[float, float]:
    """Return a point of the heart curve, scaled to about the unit circle."""
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return x / 16.5, -(y + 2.5) / 15.5
