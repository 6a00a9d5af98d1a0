import numpy as np
import torch
from PIL import Image

from agfsync.models.latents import to_images, to_tensor


def test_there_and_back() -> None:
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    (back,) = to_images(to_tensor([Image.fromarray(values)]))
    assert np.array_equal(np.asarray(back), values)


def test_range() -> None:
    pixels = to_tensor([Image.new("RGB", (2, 1), "black"), Image.new("RGB", (2, 1), "white")])
    assert pixels.shape == (2, 3, 1, 2)
    assert pixels.amin() == -1 and pixels.amax() == 1


def test_what_lies_outside_is_cut() -> None:
    (image,) = to_images(torch.full((1, 3, 1, 1), 1.7))
    assert image.getpixel((0, 0)) == (255, 255, 255)
