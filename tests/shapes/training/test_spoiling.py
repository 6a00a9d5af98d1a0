import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from agfsync.shapes.drawing import draw
from agfsync.shapes.scene import Scene
from agfsync.shapes.training.spoiling import WAYS, spoil


def damage(image: Image.Image, spoilt: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(spoilt, float)).mean())


def test_degree_zero_leaves_a_picture_as_it_is(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    for scene in scenes(10):
        image = draw(scene)
        assert spoil(image, 0.0, rng).tobytes() == image.tobytes()


@pytest.mark.parametrize("way", list(WAYS.values()))
def test_every_way_spoils_more_by_degrees(
    way: Callable[..., Image.Image], scenes: Callable[[int], Iterator[Scene]]
) -> None:
    images = [draw(scene) for scene in scenes(8)]
    harm = [
        np.mean([damage(image, way(image, degree, random.Random(n))) for n, image in enumerate(images)])
        for degree in (0.05, 0.3, 0.6, 1.0)
    ]
    assert harm[0] > 0 and harm == sorted(harm) and harm[-1] > 3
    spoilt = way(images[0], 0.5, random.Random(0))
    assert spoilt.size == (64, 64) and spoilt.mode == "RGB"
    assert spoilt.tobytes() == way(images[0], 0.5, random.Random(0)).tobytes()


def test_all_ways_come_up(scenes: Callable[[int], Iterator[Scene]]) -> None:
    image = draw(next(scenes(1)))
    assert len({way(image, 1.0, random.Random(0)).tobytes() for way in WAYS.values()}) == 5
    assert len({spoil(image, 1.0, random.Random(n)).tobytes() for n in range(30)}) > 8
