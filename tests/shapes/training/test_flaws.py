import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from agfsync.shapes.drawing import PALETTE, coverage, draw, window_of
from agfsync.shapes.scene import SIDE, Scene, Thing
from agfsync.shapes.training import vae
from agfsync.shapes.training.flaws import Flawed, _drawn, _judge_cover, _Piece, _reread, flawed_drawing, smear, smeared

STAR = Thing("star", "red", "large", "solid", 24.0, 32.0, 10.6)


def piece(thing: Thing) -> _Piece:
    side, dx, dy = window_of(thing)
    return _Piece(thing, coverage(thing.shape, thing.radius, dx, dy, side), PALETTE[thing.color], [thing])


def test_the_seed_decides_a_flawed_drawing() -> None:
    one, again = (flawed_drawing(random.Random(4)) for _ in range(2))
    assert one.image.tobytes() == again.image.tobytes() and one.readings == again.readings


def test_flaws_leave_things_out_and_in_doubt(rng: random.Random) -> None:
    drawings = [flawed_drawing(rng) for _ in range(150)]
    missing = sum(len(d.readings[0].things) < len(d.drawn) for d in drawings)
    assert missing > 15 and any(not d.drawn for d in drawings)
    assert Counter(len(d.readings) > 1 for d in drawings)[True] > 8
    assert all(d.image.size == (SIDE, SIDE) and 1 <= len(d.readings) <= 32 for d in drawings)


@pytest.mark.parametrize(("opacity", "expected"), [(0.95, [STAR]), (0.7, [STAR, None]), (0.3, [None])])
def test_a_thing_fades_into_doubt_and_then_away(opacity: float, expected: list[Thing | None]) -> None:
    faded = piece(STAR)
    faded.cover = faded.cover * np.float32(opacity)
    _judge_cover(faded, faded.cover, [STAR])
    assert faded.taken_for == expected


def test_what_lies_between_two_shapes_is_either_or_none() -> None:
    heart = replace(STAR, shape="heart")
    mixed = piece(STAR)
    mixed.cover = (mixed.cover + piece(heart).cover) / 2
    _judge_cover(mixed, mixed.cover, [STAR, heart])
    assert None in mixed.taken_for


def test_things_that_run_into_one_another_are_none_and_those_apart_are_things() -> None:
    near, far = (replace(STAR, shape="square", color="blue", x=x) for x in (36.0, 52.0))
    assert _drawn([piece(STAR), piece(near)], "white").readings == (Scene((), "white"),)
    apart = _drawn([piece(STAR), piece(far)], "white")
    assert apart.readings == (Scene((STAR, far), "white"),)
    assert apart.image.tobytes() == draw(apart.readings[0]).tobytes()


def test_mild_spoiling_keeps_a_picture_near_itself(rng: random.Random) -> None:
    image = draw(Scene((STAR,), "cream"))
    changes = [np.abs(np.asarray(smear(image, rng), float) - np.asarray(image, float)).mean() for _ in range(40)]
    assert min(changes) == 0 and 0.5 < max(changes) < 15


@pytest.mark.parametrize("other", [replace(STAR, shape="circle"), replace(STAR, color="green")])
def test_a_smear_that_looks_like_another_thing_leaves_both_possible(other: Thing) -> None:
    scene = Scene((STAR,), "white")
    (same,) = _reread(Flawed(draw(scene), (scene,), scene.things)).readings
    assert same == scene
    misread = _reread(Flawed(draw(Scene((other,), "white")), (scene,), scene.things)).readings
    assert {scene, Scene((other,), "white")} <= set(misread)


def test_a_smear_that_leaves_nothing_may_be_nothing() -> None:
    scene = Scene((STAR,), "black")
    empty = draw(Scene((), "black"))
    assert Scene((), "black") in _reread(Flawed(empty, (scene,), scene.things)).readings


def test_the_autoencoder_smears_each_picture_and_keeps_what_was_drawn(rng: random.Random) -> None:
    drawings = [flawed_drawing(rng) for _ in range(2)]
    model = vae.build().eval()
    one, again = (smeared(model, drawings, random.Random(1)) for _ in range(2))
    assert [d.image.tobytes() for d in one] == [d.image.tobytes() for d in again]
    assert [d.drawn for d in one] == [d.drawn for d in drawings]
    for after, before in zip(one, drawings, strict=True):
        assert after.image.size == (SIDE, SIDE) and after.image.tobytes() != before.image.tobytes()
