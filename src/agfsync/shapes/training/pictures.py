"""The scenes that the models are taught with, at random."""

import random
from collections.abc import Sequence

from agfsync.shapes.grammar import CATEGORIES, invent
from agfsync.shapes.scene import Crowded, Scene, Spec, compose, random_spec


def any_scene(rng: random.Random) -> Scene:
    """A scene of one to four things."""
    while True:
        try:
            return compose(any_spec(rng), rng)
        except Crowded:
            continue


def scene_of(things: int, rng: random.Random) -> Scene:
    """Make up a scene of exactly `things` things, in one to four groups."""
    while True:
        spec = random_spec(rng, groups=rng.choice([1, 2, 2, 3, 3, 4]), things=things)
        if sum(group.count for group in spec.groups) == things:
            try:
                return compose(spec, rng)
            except Crowded:
                continue


def any_spec(rng: random.Random) -> Spec:
    """What there is in a scene of one to four things, in one to four groups."""
    return random_spec(rng, groups=rng.choice([1, 2, 2, 3, 3, 4]), things=rng.choice([1, 2, 3, 4]))


def any_captioned_scene(rng: random.Random, categories: Sequence[str] = CATEGORIES) -> tuple[Spec, Scene]:
    """A specification of a random one of `categories`, and a scene that fulfils it."""
    while True:
        spec = invent(rng.choice(categories), rng)
        try:
            return spec, compose(spec, rng)
        except Crowded:
            continue
