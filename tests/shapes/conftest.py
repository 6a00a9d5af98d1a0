"""What the tests of the Shapes world draw their examples from."""

import random
from collections.abc import Callable, Iterator

import pytest

from agfsync.shapes.grammar import SHAPES_CATEGORIES
from agfsync.shapes.scene import Scene, Spec
from agfsync.shapes.training.images import sample_captioned_scene, sample_scene


@pytest.fixture(params=SHAPES_CATEGORIES)
def category(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of its own for each test."""
    return random.Random(request.node.name)


@pytest.fixture
def scenes(rng: random.Random) -> Callable[[int], Iterator[Scene]]:
    """Scenes of one to four things."""
    return lambda count: (sample_scene(rng) for _ in range(count))


@pytest.fixture
def captioned(rng: random.Random) -> Callable[[int], Iterator[tuple[Spec, Scene]]]:
    """Specifications of random categories with scenes that fulfil them."""
    return lambda count: (sample_captioned_scene(rng) for _ in range(count))
