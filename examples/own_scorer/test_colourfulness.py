import pytest
from colourfulness import Colourfulness
from PIL import Image

from agfsync.scorers import Item


def test_red_is_more_colourful_than_grey():
    grey, red = (Item("a ball", (), Image.new("RGB", (8, 8), colour)) for colour in ("grey", "red"))
    low, high = Colourfulness().score([grey, red])
    assert (low.value, high.value) == (0, pytest.approx(100))
