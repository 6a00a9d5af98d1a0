import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.scene import SIDE, Scene, Thing
from agfsync.shapes.training import vae
from agfsync.shapes.training.flaws import (
    FlawedDrawing,
    add_readings,
    assemble_drawing,
    draw_flawed,
    judge_cover,
    paint_clean,
    smear_by_vae,
    smear_mildly,
)

STAR = Thing("star", "red", "large", "solid", 24.0, 32.0, 10.6)


def test_the_seed_decides_a_draw_flawed() -> None:
    one, again = (draw_flawed(random.Random(4)) for _ in range(2))
    assert one.image.tobytes() == again.image.tobytes() and one.readings == again.readings


def test_flaws_leave_things_out_and_in_doubt(rng: random.Random) -> None:
    drawings = [draw_flawed(rng) for _ in range(150)]
    missing = sum(len(d.readings[0].things) < len(d.drawn) for d in drawings)
    assert missing > 15 and any(not d.drawn for d in drawings)
    assert Counter(len(d.readings) > 1 for d in drawings)[True] > 8
    assert all(d.image.size == (SIDE, SIDE) and 1 <= len(d.readings) <= 32 for d in drawings)


@pytest.mark.parametrize(("opacity", "expected"), [(0.95, [STAR]), (0.7, [STAR, None]), (0.3, [None])])
def test_a_thing_fades_into_doubt_and_then_away(opacity: float, expected: list[Thing | None]) -> None:
    faded = paint_clean(STAR)
    faded.cover = faded.cover * np.float32(opacity)
    judge_cover(faded, [STAR])
    assert faded.taken_for == expected


def test_what_lies_between_two_shapes_is_either_or_none() -> None:
    heart = replace(STAR, shape="heart")
    mixed = paint_clean(STAR)
    mixed.cover = (mixed.cover + paint_clean(heart).cover) / 2
    judge_cover(mixed, [STAR, heart])
    assert None in mixed.taken_for


def test_things_that_run_into_one_another_are_none_and_those_apart_are_things() -> None:
    near, far = (replace(STAR, shape="square", color="blue", x=x) for x in (36.0, 52.0))
    assert assemble_drawing([paint_clean(STAR), paint_clean(near)], "white").readings == (Scene((), "white"),)
    apart = assemble_drawing([paint_clean(STAR), paint_clean(far)], "white")
    assert apart.readings == (Scene((STAR, far), "white"),)
    assert apart.image.tobytes() == draw_scene(apart.readings[0]).tobytes()


def test_mild_spoiling_keeps_an_image_near_itself(rng: random.Random) -> None:
    image = draw_scene(Scene((STAR,), "cream"))
    changes = [np.abs(np.asarray(smear_mildly(image, rng), float) - np.asarray(image, float)).mean() for _ in range(40)]
    assert min(changes) == 0 and 0.5 < max(changes) < 15


@pytest.mark.parametrize("other", [replace(STAR, shape="circle"), replace(STAR, color="green")])
def test_a_smear_that_looks_like_another_thing_leaves_both_possible(other: Thing) -> None:
    scene = Scene((STAR,), "white")
    (same,) = add_readings(FlawedDrawing(draw_scene(scene), (scene,), scene.things)).readings
    assert same == scene
    misread = add_readings(FlawedDrawing(draw_scene(Scene((other,), "white")), (scene,), scene.things)).readings
    assert {scene, Scene((other,), "white")} <= set(misread)


def test_a_smear_that_leaves_nothing_may_be_nothing() -> None:
    scene = Scene((STAR,), "black")
    empty = draw_scene(Scene((), "black"))
    assert Scene((), "black") in add_readings(FlawedDrawing(empty, (scene,), scene.things)).readings


def test_the_autoencoder_smears_each_image_and_keeps_what_was_drawn(rng: random.Random) -> None:
    drawings = [draw_flawed(rng) for _ in range(2)]
    model = vae.build_vae().eval()
    one, again = (smear_by_vae(model, drawings, random.Random(1)) for _ in range(2))
    assert [d.image.tobytes() for d in one] == [d.image.tobytes() for d in again]
    assert [d.drawn for d in one] == [d.drawn for d in drawings]
    for after, before in zip(one, drawings, strict=True):
        assert after.image.size == (SIDE, SIDE) and after.image.tobytes() != before.image.tobytes()
