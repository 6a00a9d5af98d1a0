"""Drawings with a generator's flaws: faint, cut, blended and touching things, smeared by its autoencoder.

The right answers on such an image follow from how it was made, not from a model that looks at it. A thing counts as
whole if its coverage overlaps that of a clean one well (intersection over union above `WHOLE`), and as no thing if the
overlap is below `BROKEN` or if it runs into another thing. In between, and between two colours or sizes, both readings
are possible, and only questions with the same answer in both are asked.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from PIL import Image
from scipy import ndimage

from agfsync.models.latents import to_images, to_tensor
from agfsync.shapes.drawing import (
    PALETTE,
    FloatArray,
    Rgb,
    cover_thing,
    fill_canvas,
    finish_canvas,
    paint_thing,
)
from agfsync.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    MATERIALS,
    RADII,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    nearest_to_edge,
)
from agfsync.shapes.training.images import SPOILERS, sample_captioned_scene, sample_scene

WHOLE, BROKEN = 0.85, 0.6
"""Intersection over union with a clean thing above which a flawed thing is whole, and below which it is no thing."""
EMPTY = 0.06
"""Share of the images without things."""
FLAWED = 0.3
"""Share of the things with a flaw."""
MILD: Final = {"blurry": 0.2, "grainy": 0.08, "faded": 0.3, "coarse": 0.15, "bent": 0.12}
"""Largest degree of each way of spoiling that leaves the content recognisable."""
SMEAR_NOISE: Final = 0.35
"""Largest noise on the latents of a smeared image, in their standard deviations."""
AS_GOOD: Final = 1.2
"""A smeared thing is unambiguous if the pixel error of every other shape or colour is at least this many times its
own."""
_FAINT: Final = 0.45
"""Contrast of a smeared thing, relative to the clean one, below which it may be no thing."""
_MOST_READINGS: Final = 32


@dataclass(frozen=True, slots=True)
class FlawedDrawing:
    """A drawing with flaws.

    `readings` are the scenes that it may show, a single one if it is clear; `drawn` are all things that were painted,
    whether or not they count as things.
    """

    image: Image.Image
    readings: tuple[Scene, ...]
    drawn: tuple[Thing, ...]


@dataclass(slots=True)
class PaintedThing:
    """A thing as it is painted: its coverage, its tone, and its possible readings (None: no thing)."""

    thing: Thing
    cover: FloatArray
    tone: Rgb
    taken_for: list[Thing | None]


def draw_flawed(rng: random.Random) -> FlawedDrawing:
    """Draw a random scene in which some things have a flaw."""
    while True:
        if rng.random() < EMPTY:
            scene = Scene((), rng.choice(BACKGROUNDS))
        else:
            scene = sample_scene(rng) if rng.random() < 0.5 else sample_captioned_scene(rng)[1]
        pieces = [_paint_flawed(thing, rng) for thing in _crowd_things(scene.things, rng)]
        drawing = assemble_drawing(pieces, scene.background)
        if len(drawing.readings) <= _MOST_READINGS:
            return drawing


@torch.no_grad()
def smear_by_vae(vae: AutoencoderKL, drawings: Sequence[FlawedDrawing], rng: random.Random) -> list[FlawedDrawing]:
    """Encode and decode `drawings` with the autoencoder, with noise of random strength on the latents of each."""
    latents_BCHW = vae.encode(to_tensor([drawing.image for drawing in drawings]).to(vae.device)).latent_dist.mean
    strength_B = torch.tensor([rng.uniform(0, SMEAR_NOISE) for _ in drawings])
    noise_BCHW = torch.randn(latents_BCHW.shape, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
    latents_BCHW = latents_BCHW + (strength_B.view(-1, 1, 1, 1) * noise_BCHW).to(vae.device)
    images = to_images(vae.decode(latents_BCHW).sample)
    return [add_readings(replace(drawing, image=image)) for drawing, image in zip(drawings, images, strict=True)]


def add_readings(drawing: FlawedDrawing) -> FlawedDrawing:
    """Add readings for things that the smear makes ambiguous: another shape or colour explains the pixels as well."""
    pixels = np.asarray(drawing.image, np.float32)
    background = drawing.readings[0].background
    things = dict.fromkeys(thing for scene in drawing.readings for thing in scene.things)
    possible = {thing: _find_likely(pixels, thing, background) for thing in things}
    scenes = dict.fromkeys(
        Scene(tuple(thing for thing in read if thing is not None), background)
        for scene in drawing.readings
        for read in itertools.islice(itertools.product(*(possible[thing] for thing in scene.things)), _MOST_READINGS)
    )
    return replace(drawing, readings=tuple(scenes))


def _find_likely(pixels: FloatArray, thing: Thing, background: str) -> list[Thing | None]:
    """Return `thing` and all variants of it that explain the pixels about as well: another shape or colour, or none."""
    others = [replace(thing, shape=shape) for shape in SHAPES if shape != thing.shape]
    others += [replace(thing, color=color) for color in COLORS if color != thing.color]
    half = math.ceil(thing.radius + 2)
    rows = slice(max(0, round(thing.y) - half), round(thing.y) + half)
    columns = slice(max(0, round(thing.x) - half), round(thing.x) + half)

    def paint_alone(one: Thing) -> FloatArray:
        canvas = fill_canvas(background)
        paint_thing(canvas, one, cover_thing(one), PALETTE[one.color])
        return canvas

    def measure_distance(one: FloatArray, other: FloatArray) -> float:
        return float(np.abs(one - other)[rows, columns].mean())

    clean, ground = paint_alone(thing), fill_canvas(background)
    limit = AS_GOOD * measure_distance(clean, pixels)
    likely: list[Thing | None] = [thing]
    likely += [other for other in others if measure_distance(paint_alone(other), pixels) < limit]
    if measure_distance(ground, pixels) < _FAINT * measure_distance(ground, clean):
        likely.append(None)
    return likely


def smear_mildly(image: Image.Image, rng: random.Random) -> Image.Image:
    """Spoil an image in up to two ways, mildly enough that its things stay recognisable."""
    for way in rng.sample(list(MILD), rng.choice((0, 0, 1, 1, 2))):
        image = SPOILERS[way](image, rng.uniform(0, MILD[way]), rng)
    return image


def _crowd_things(things: Sequence[Thing], rng: random.Random) -> list[Thing]:
    """Return `things`, sometimes with another one that is next to one of them or runs into it."""
    if not things or rng.random() > 0.3:
        return list(things)
    one = rng.choice(list(things))
    size = rng.choice(SIZES)
    color = one.color if rng.random() < 0.4 else rng.choice(COLORS)
    material = one.material if rng.random() < 0.6 else rng.choice(MATERIALS)
    dx, dy = rng.choice([(x, y) for x in (-16, -8, 0, 8, 16) for y in (-16, -8, 0, 8, 16) if (x, y) != (0, 0)])
    edge = nearest_to_edge(RADII[size])
    x, y = min(max(one.x + dx, edge), SIDE - edge), min(max(one.y + dy, edge), SIDE - edge)
    return [*things, Thing(rng.choice(SHAPES), color, size, material, x, y, RADII[size])]


def paint_clean(thing: Thing) -> PaintedThing:
    """Return `thing` without a flaw."""
    return PaintedThing(thing, cover_thing(thing), PALETTE[thing.color], [thing])


def _paint_flawed(thing: Thing, rng: random.Random) -> PaintedThing:
    """Return `thing`, with probability `FLAWED` with a flaw, and with 0.6 moved by up to one pixel in x and y."""
    if rng.random() < 0.6:
        dx, dy = rng.uniform(-1, 1), rng.uniform(-1, 1)
        thing = replace(thing, x=thing.x + dx, y=thing.y + dy)
    piece = paint_clean(thing)
    if rng.random() < FLAWED:
        rng.choice((_fade, _cut, _blend_shapes, _blend_colors, _resize))(piece, rng)
    return piece


def _fade(piece: PaintedThing, rng: random.Random) -> None:
    piece.cover = piece.cover * np.float32(rng.uniform(0.1, 1.0))
    judge_cover(piece, [piece.thing])


def _cut(piece: PaintedThing, rng: random.Random) -> None:
    """Erase the part beyond a line at a random angle, with a soft edge."""
    side = len(piece.cover)
    at = np.arange(side, dtype=np.float32) - side / 2 + 0.5
    angle, where = rng.uniform(0, 2 * math.pi), rng.uniform(-0.9, 0.9) * piece.thing.radius
    beyond = at[None, :] * math.cos(angle) + at[:, None] * math.sin(angle) - where
    piece.cover = piece.cover * np.clip(0.5 - beyond / rng.uniform(1, 4), 0, 1).astype(np.float32)
    judge_cover(piece, [piece.thing])


def _blend_shapes(piece: PaintedThing, rng: random.Random) -> None:
    """Blend the thing's outline with that of another shape, as an undecided generator does."""
    other = replace(piece.thing, shape=rng.choice([shape for shape in SHAPES if shape != piece.thing.shape]))
    share = np.float32(rng.random())
    mixed = piece.cover * (1 - share) + cover_thing(other) * share
    if rng.random() < 0.5:  # half of the blends have a sharp outline between the two
        mixed = np.clip((mixed - 0.5) * 3 + 0.5, 0, 1)
    piece.cover = mixed.astype(np.float32)
    judge_cover(piece, [piece.thing, other])


def _blend_colors(piece: PaintedThing, rng: random.Random) -> None:
    thing = piece.thing
    other = rng.choice([color for color in COLORS if color != thing.color])
    share = rng.uniform(0, 0.5)
    mix = [round(a * (1 - share) + b * share) for a, b in zip(PALETTE[thing.color], PALETTE[other], strict=True)]
    piece.tone = (mix[0], mix[1], mix[2])
    near = sorted(COLORS, key=lambda color: math.dist(PALETTE[color], piece.tone))[:2]
    distances = [math.dist(PALETTE[color], piece.tone) for color in near]
    # clearly one colour, or either of the two nearest
    possible = near[:1] if distances[0] < 0.6 * distances[1] else near
    piece.taken_for = [replace(thing, color=color) for color in possible]


def _resize(piece: PaintedThing, rng: random.Random) -> None:
    """Give the thing a random radius, in 5.4..12 pixels."""
    radius = rng.uniform(5.4, 12.0)
    thing = replace(piece.thing, radius=radius, size="small" if radius < 8.5 else "large")
    piece.thing, piece.cover = thing, cover_thing(thing)
    piece.taken_for = [thing] if not 7.8 < radius < 9.4 else [replace(thing, size=size) for size in SIZES]


def judge_cover(piece: PaintedThing, sources: list[Thing]) -> None:
    """Set the possible readings of a piece: those of `sources` that it overlaps best, or no thing, or both."""
    overlaps = []
    for thing in sources:
        clean = cover_thing(thing)
        overlaps.append(float(np.minimum(piece.cover, clean).sum() / np.maximum(piece.cover, clean).sum()))
    best = max(overlaps)
    likely: list[Thing | None] = [t for t, o in zip(sources, overlaps, strict=True) if o > best - 0.08]
    if best < BROKEN:
        piece.taken_for = [None]
    else:
        piece.taken_for = likely if best > WHOLE else [*likely, None]


def assemble_drawing(pieces: list[PaintedThing], background: str) -> FlawedDrawing:
    """Paint the pieces into one image and list its readings."""
    canvas = fill_canvas(background)
    for piece in pieces:
        paint_thing(canvas, piece.thing, piece.cover, piece.tone)
    _doubt_touching(pieces)
    readings = itertools.product(*(dict.fromkeys(piece.taken_for) for piece in pieces))
    scenes = tuple(Scene(tuple(t for t in things if t is not None), background) for things in readings)
    return FlawedDrawing(finish_canvas(canvas), scenes, tuple(piece.thing for piece in pieces))


def _doubt_touching(pieces: list[PaintedThing]) -> None:
    """Set the readings of touching things: no thing if they run into each other, else a thing or none.

    A thing that is much larger than the one that runs into it may stay a thing.
    """
    for a, b in itertools.combinations(pieces, 2):
        one, two = _mask_piece(a), _mask_piece(b)
        contact = int((ndimage.binary_dilation(one) & two).sum())
        if contact == 0:
            continue
        smaller, larger = sorted((a, b), key=lambda piece: float(piece.cover.sum()))
        merged = int((one & two).sum()) > 8 or contact > 4
        smaller.taken_for = [None] if merged else [*smaller.taken_for, None]
        dominates = float(smaller.cover.sum()) < 0.3 * float(larger.cover.sum())
        larger.taken_for = [None] if merged and not dominates else [*larger.taken_for, None]


def _mask_piece(piece: PaintedThing) -> npt.NDArray[np.bool_]:
    """Return the mask (SIDE, SIDE) of the pixels that a piece covers by more than 0.2."""
    side = len(piece.cover)
    whole = np.zeros((SIDE + 2 * side, SIDE + 2 * side), bool)
    left, top = math.floor(piece.thing.x) - side // 2 + side, math.floor(piece.thing.y) - side // 2 + side
    whole[top : top + side, left : left + side] = piece.cover > 0.2
    return whole[side : side + SIDE, side : side + SIDE]
