import random
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.grammar import SHAPES_CATEGORIES, list_questions
from agfsync.shapes.scene import Scene
from agfsync.shapes.training.images import SPOILERS, sample_captioned_scene, sample_scene, spoil_image


def test_scenes_hold_one_to_four_things_of_one_to_four_kinds(rng: random.Random) -> None:
    scenes = [sample_scene(rng) for _ in range(100)]
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4}
    assert {len({thing.kind for thing in scene.things}) for scene in scenes} == {1, 2, 3, 4}


@pytest.mark.parametrize("things", [1, 2, 3, 4])
def test_a_scene_holds_as_many_things_as_asked_for(things: int, rng: random.Random) -> None:
    assert {len(sample_scene(rng, things).things) for _ in range(20)} == {things}


def test_a_scene_is_as_its_caption_says(rng: random.Random) -> None:
    groups = Counter[int]()
    for _ in range(30 * len(SHAPES_CATEGORIES)):
        spec, scene = sample_captioned_scene(rng)
        assert all(query.answer(scene) for query in list_questions(spec))
        groups[len(spec.groups)] += 1
    assert set(groups) == {1, 2, 3}


def test_the_same_generator_gives_the_same_scenes() -> None:
    assert sample_scene(random.Random("a")) == sample_scene(random.Random("a")) != sample_scene(random.Random("b"))


def measure_damage(image: Image.Image, spoilt: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(spoilt, float)).mean())


def test_degree_zero_leaves_an_image_as_it_is(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    for scene in scenes(10):
        image = draw_scene(scene)
        assert spoil_image(image, 0.0, rng).tobytes() == image.tobytes()


@pytest.mark.parametrize("spoiler", list(SPOILERS.values()))
def test_every_way_spoils_more_by_degrees(
    spoiler: Callable[..., Image.Image], scenes: Callable[[int], Iterator[Scene]]
) -> None:
    images = [draw_scene(scene) for scene in scenes(8)]
    harm = [
        np.mean([measure_damage(image, spoiler(image, degree, random.Random(n))) for n, image in enumerate(images)])
        for degree in (0.05, 0.3, 0.6, 1.0)
    ]
    assert harm[0] > 0 and harm == sorted(harm) and harm[-1] > 3
    spoilt = spoiler(images[0], 0.5, random.Random(0))
    assert spoilt.size == (64, 64) and spoilt.mode == "RGB"
    assert spoilt.tobytes() == spoiler(images[0], 0.5, random.Random(0)).tobytes()


def test_all_ways_come_up(scenes: Callable[[int], Iterator[Scene]]) -> None:
    image = draw_scene(next(scenes(1)))
    assert len({spoiler(image, 1.0, random.Random(0)).tobytes() for spoiler in SPOILERS.values()}) == 5
    assert len({spoil_image(image, 1.0, random.Random(n)).tobytes() for n in range(30)}) > 8
