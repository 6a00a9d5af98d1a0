from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from agfsync.shapes.drawing import BACKGROUND_PALETTE, PALETTE, STRIPE_PERIOD, cover_shape, draw_scene, tint_color
from agfsync.shapes.scene import BACKGROUNDS, COLORS, SHAPES, SIDE, Scene, Thing

THING = Thing("square", "red", "large", "solid", 32.0, 32.0, 11.0)


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(draw_scene(scene), np.int64)


def test_drawing_the_same_scene_gives_the_same_image(scenes: Callable[[int], Iterator[Scene]]) -> None:
    for scene in scenes(10):
        image = draw_scene(scene)
        assert image.size == (SIDE, SIDE) and image.mode == "RGB"
        assert image.tobytes() == draw_scene(scene).tobytes()


def test_every_colour_and_background_has_its_tone_and_no_two_are_alike() -> None:
    assert list(PALETTE) == list(COLORS) and list(BACKGROUND_PALETTE) == list(BACKGROUNDS)
    tones = np.array([*PALETTE.values(), *BACKGROUND_PALETTE.values()], float)
    distances = np.linalg.norm(tones[:, None] - tones, axis=2) + 1e9 * np.eye(len(tones))
    assert distances.min() > 40


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_solid_thing_is_of_its_colour_on_its_background(color: str, background: str) -> None:
    drawn = pixels(Scene((replace(THING, color=color),), background))
    assert tuple(drawn[32, 32]) == PALETTE[color]
    assert tuple(drawn[2, 2]) == BACKGROUND_PALETTE[background]


def test_stripes_take_turns_along_the_height() -> None:
    column = pixels(Scene((replace(THING, material="striped"),), "white"))[24:40, 32]
    red, light = (np.array(tone) for tone in (PALETTE["red"], tint_color(PALETTE["red"])))
    is_light = np.abs(column - light).sum(axis=1) < np.abs(column - red).sum(axis=1)
    assert 0.35 < is_light.mean() < 0.65
    assert np.diff(is_light.astype(int)).astype(bool).sum() >= 2 * int(len(column) / STRIPE_PERIOD) - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_anti_aliased(shape: str) -> None:
    cover = cover_shape(shape, 10.0, 0.25, 0.5, 32)
    assert cover.dtype == np.float32 and cover.min() == 0 and cover.max() == 1
    assert ((cover > 0.05) & (cover < 0.95)).sum() >= 15


def test_a_move_by_a_fraction_of_a_pixel_shows() -> None:
    near, far = (draw_scene(Scene((replace(THING, x=32 + move),), "white")).tobytes() for move in (0.0, 0.3))
    assert near != far


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_circle_and_no_more(shape: str) -> None:
    cover = cover_shape(shape, 10.0, 0.0, 0.0, 32)
    rows, columns = np.nonzero(cover > 0.5)
    assert 15 <= np.ptp(rows) + 1 <= 23 and 15 <= np.ptp(columns) + 1 <= 23
    assert abs((columns.min() + columns.max()) / 2 - 15.5) <= 0.5


def test_no_two_shapes_look_alike() -> None:
    masks = [cover_shape(shape, 6.0, 0.0, 0.0, 24) for shape in SHAPES]
    for n, a in enumerate(masks):
        for b in masks[:n]:
            assert np.minimum(a, b).sum() / np.maximum(a, b).sum() < 0.9


def test_an_unknown_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="no shape is called blob"):
        cover_shape("blob", 5.0, 0.0, 0.0, 16)
