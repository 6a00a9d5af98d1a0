"""Narrow images, which the image processors of some models refuse by a ValueError."""

from collections.abc import Iterable

from PIL import Image

MOST_NARROW = 100
"""the longer side of a narrow image is more than so many times the shorter"""


def is_narrow(image: Image.Image) -> bool:
    """Return True for an image whose sides some models refuse, such as Qwen's beyond 1 to 200."""
    return max(image.size) > MOST_NARROW * min(image.size)


def explain_refusal(images: Iterable[Image.Image], refusal: ValueError) -> str:
    """Return why a model doesn't read `images`, in a line.

    Raises:
        ValueError: none of them is narrow: `refusal` has another cause.
    """
    if not any(map(is_narrow, images)):
        raise refusal
    return f"the model can't read the image: {refusal}".splitlines()[0]
