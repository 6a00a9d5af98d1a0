"""The oracle: an algorithm that answers every question of the grammar from an image. Nothing is trained on it.

It reads the background from the border, segments what differs from it, and compares each piece with every shape at
every size. A piece that fits no shape well enough isn't a thing.

>>> from agfsync.shapes.drawing import draw_scene
>>> star = Thing("star", "red", "large", "striped", 20.0, 32.0, 10.6)
>>> seen = see_scene(draw_scene(Scene((star,), "cream")))
>>> seen.background, seen.things[0].kind == star.kind
('cream', True)
>>> parse_query("Is the red star striped?").answer(seen)
True
"""

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from agfsync.records import Answer
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.shapes.drawing import BACKGROUND_PALETTE, PALETTE, FloatArray, cover_shape, tint_color
from agfsync.shapes.queries import parse_query
from agfsync.shapes.scene import BACKGROUNDS, COLORS, SHAPES, SIDE, Scene, Thing

_FOREGROUND: Final = 18.0
"""RGB distance from the background at which a pixel belongs to a thing."""
_SMALLEST: Final = 22
"""Smallest number of pixels of a piece that may be a thing."""
_FIT: Final = 0.72
"""Intersection over union with a known shape below which a piece isn't a thing."""
_RADII: Final = tuple(np.arange(5.2, 12.6, 0.4).tolist())
_BETWEEN_SIZES: Final = 8.7
_WINDOW: Final = 32


def see_scene(image: Image.Image) -> Scene:
    """Return the things and the background that the oracle recognises in an image of any size."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    background = _find_background(pixels)
    away = np.linalg.norm(pixels - np.array(BACKGROUND_PALETTE[background], np.float32), axis=-1)
    pieces, count = ndimage.label(away > _FOREGROUND)
    things = [_recognise_thing(pixels, away, pieces == n + 1, background) for n in range(count)]
    return Scene(tuple(thing for thing in things if thing is not None), background)


class Oracle:
    """Scores an image by the share of the questions that it answers as the caption does."""

    asks_questions = True
    knows_truth = True

    def __init__(self, **_: object) -> None:
        """Accept and ignore the settings of any scorer."""

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return 100 x the share of right answers for each item; `Unscored` if a question isn't of this world."""
        return [_score_item(item) for item in items]

    def oppose(self, question: str) -> str:
        """Return the question on another value of the same attribute; empty if `question` isn't of this world."""
        query = parse_query(question)
        return "" if query is None else query.oppose().to_text()


def _score_item(item: Item) -> Measurement | Unscored:
    if not item.questions:
        return Unscored("no questions")
    scene = see_scene(item.image)
    answers: list[Answer] = []
    for question in item.questions:
        query = parse_query(question.text)
        if query is None:
            return Unscored(f"not a question of the Shapes world: {question.text}")
        yes = query.answer(scene)
        answers.append(Answer(question.key, "yes" if yes else "no", float(yes)))
    right = sum(answer.answer == question.answer for answer, question in zip(answers, item.questions, strict=True))
    return Measurement(100 * right / len(answers), tuple(answers))


def _find_background(pixels: FloatArray) -> str:
    sides = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    middle = np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)
    known = np.array([BACKGROUND_PALETTE[name] for name in BACKGROUNDS], np.float32)
    return BACKGROUNDS[int(np.linalg.norm(known - middle, axis=1).argmin())]


def _recognise_thing(
    pixels: FloatArray, away: FloatArray, piece: npt.NDArray[np.bool_], background: str
) -> Thing | None:
    """Return the thing that a piece of the image shows, or None if it resembles none."""
    if piece.sum() < _SMALLEST:
        return None
    color, material = _recognise_paint(pixels, piece)
    soft = _measure_cover(away, piece, color, material, background)
    rows, columns = np.nonzero(soft > 0.3)
    if not len(rows):
        return None
    x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    left, top = round(x) - _WINDOW // 2, round(y) - _WINDOW // 2
    padded = np.pad(soft, _WINDOW)
    window = padded[top + _WINDOW : top + 2 * _WINDOW, left + _WINDOW : left + 2 * _WINDOW]
    known, covers = _templates()
    overlap = np.minimum(covers, window).sum(axis=(1, 2)) / np.maximum(covers, window).sum(axis=(1, 2))
    best = int(overlap.argmax())
    if overlap[best] < _FIT:
        return None
    shape, radius, dx, dy = known[best]
    size = "small" if radius < _BETWEEN_SIZES else "large"
    centre_x, centre_y = float(left + _WINDOW / 2 + dx), float(top + _WINDOW / 2 + dy)
    return Thing(shape, color, size, material, centre_x, centre_y, radius)


def _recognise_paint(pixels: FloatArray, piece: npt.NDArray[np.bool_]) -> tuple[str, str]:
    """Return a piece's colour and material, from its pixels inside the rim."""
    inner = ndimage.binary_erosion(piece)
    inside = pixels[inner if inner.sum() >= 8 else piece]
    full = np.array([PALETTE[name] for name in COLORS], np.float32)
    light = np.array([tint_color(PALETTE[name]) for name in COLORS], np.float32)
    to_full = np.linalg.norm(inside[:, None] - full, axis=2)
    to_light = np.linalg.norm(inside[:, None] - light, axis=2)
    # a thing has one colour: the one whose full or light tone explains its pixels best
    color = int(np.minimum(to_full, to_light).mean(axis=0).argmin())
    pale = (to_light[:, color] < to_full[:, color]).mean()
    return COLORS[color], "striped" if 0.2 < pale < 0.9 else "solid"


def _measure_cover(
    away: FloatArray, piece: npt.NDArray[np.bool_], color: str, material: str, background: str
) -> FloatArray:
    """Return the share, in 0..1, of each pixel that a piece covers: its position between background and piece's tone.

    Stripes run along the rows, so the tone of a striped piece is determined for each row: its pale rows are close to
    some backgrounds.
    """
    ground = np.array(BACKGROUND_PALETTE[background], np.float32)
    tones = (PALETTE[color], tint_color(PALETTE[color]))
    full, light = (float(np.linalg.norm(np.array(tone) - ground)) for tone in tones)
    tone = np.full((SIDE, 1), full)
    if material == "striped":
        tone = np.where(piece, away, 0).max(axis=1, keepdims=True).clip(min(full, light), full)
    grown = ndimage.binary_dilation(piece)
    return np.where(grown, np.clip(away / tone, 0, 1), 0).astype(np.float32)


class _Template(NamedTuple):
    shape: str
    radius: float
    dx: float
    dy: float


@cache
def _templates() -> tuple[list[_Template], FloatArray]:
    """Return every shape at every radius, and its cover, (N, H, W).

    The bounding box is centred in the window, with shifts of -0.5, 0 and 0.5 pixels.
    """
    known: list[_Template] = []
    for shape in SHAPES:
        for radius in _RADII:
            rows, columns = np.nonzero(cover_shape(shape, radius, 0.0, 0.0, _WINDOW) > 0.3)
            dx = _WINDOW / 2 - (columns.min() + columns.max() + 1) / 2
            dy = _WINDOW / 2 - (rows.min() + rows.max() + 1) / 2
            shifts = [(x, y) for x in (-0.5, 0.0, 0.5) for y in (-0.5, 0.0, 0.5)]
            known += [_Template(shape, radius, dx + x, dy + y) for x, y in shifts]
    return known, np.stack([cover_shape(*template, _WINDOW) for template in known])
