import random
from collections import Counter

from agfsync.shapes.grammar import CATEGORIES, questions
from agfsync.shapes.training.pictures import any_captioned_scene, any_scene, any_spec


def test_scenes_hold_one_to_four_things(rng: random.Random) -> None:
    assert set(Counter(len(any_scene(rng).things) for _ in range(100))) == {1, 2, 3, 4}
    assert {len(any_spec(rng).groups) for _ in range(100)} == {1, 2, 3, 4}


def test_a_scene_is_as_its_caption_says(rng: random.Random) -> None:
    shapes = Counter[int]()
    for _ in range(30 * len(CATEGORIES)):
        spec, scene = any_captioned_scene(rng)
        assert all(query.answer(scene) for query in questions(spec))
        shapes[len(spec.groups)] += 1
    assert set(shapes) == {1, 2, 3}


def test_the_same_generator_gives_the_same_scenes() -> None:
    assert any_scene(random.Random("a")) == any_scene(random.Random("a")) != any_scene(random.Random("b"))
