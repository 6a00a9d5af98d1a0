"""Training pictures as tensors."""

import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agfsync.shapes.scene import Crowded, Scene, Spec, compose, random_spec


def any_scene(rng: random.Random) -> Scene:
    """A scene of one to four things."""
    while True:
        try:
            return compose(any_spec(rng), rng)
        except Crowded:
            continue


def any_spec(rng: random.Random) -> Spec:
    """What there is in a scene of one to four things, in one to three groups."""
    return random_spec(rng, groups=rng.choice([1, 2, 2, 3, 3, 4]), things=rng.choice([1, 2, 3, 4]))


def to_tensor(images: list[Image.Image]) -> Tensor:
    """RGB images as float32 (B, 3, H, W) in -1..1."""
    stacked = np.stack([np.asarray(image, np.uint8) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
