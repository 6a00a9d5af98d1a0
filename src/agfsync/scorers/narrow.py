"""Narrow images, for which the image processors of some models raise a ValueError."""

from collections.abc import Iterable

from PIL import Image

MOST_NARROW = 100
"""an image is narrow if its longer side is more than this many times the shorter one"""


def is_narrow(image: Image.Image) -> bool:
    """Return True if some models may refuse the image's aspect ratio, such as Qwen's beyond 1 to 200."""
    return max(image.size) > MOST_NARROW * min(image.size)


def explain_refusal(images: Iterable[Image.Image], refusal: ValueError) -> str:
    """Return in one line why a model can't read `images`.

    Raises:
        ValueError: no image is narrow, so `refusal` has another cause.
    """
    if not any(map(is_narrow, images)):
        raise refusal
    return f"the model can't read the image: {refusal}".splitlines()[0]
