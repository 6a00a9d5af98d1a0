"""A scorer for agfsync: how colourful an image is."""

from collections.abc import Sequence

from PIL import ImageStat

from agfsync.scorers import Item, Measurement


class Colourfulness:
    """The mean saturation of an image, on 0..100."""

    asks_questions = False  # its values depend on no question

    def score(self, items: Sequence[Item]) -> list[Measurement]:
        return [Measurement(ImageStat.Stat(item.image.convert("HSV")).mean[1] / 2.55) for item in items]
