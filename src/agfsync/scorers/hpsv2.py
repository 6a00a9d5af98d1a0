"""HPSv2 and HPSv2.1: a CLIP-H tuned on human preference (Wu et al., 2023, arXiv 2306.09341).

The weights of both versions are published as pickles, which aren't supported here: convert them to safetensors. They
have open_clip's names, which `agfsync.scorers.open_clip` maps.
"""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.clip import Clip
from agfsync.scorers.pixels import pad_pixels_to_square


class Hpsv2(Clip):
    """The HPSv2 scorer: 100 x the cosine similarity of the embeddings of image and prompt, at least 0.

    This is the published score in %. The two versions' values aren't comparable, and nothing in the weights
    distinguishes them. Each version has its own name in the catalog, hpsv2 and hpsv2.1, so that the scores differ in
    their keys.

    `path` is a folder or hub id of the whole model in transformers' layout. Or it is the CLIP-H that HPSv2 was
    fine-tuned from, laion/CLIP-ViT-H-14-laion2B-s32B-b79K, and `weights` are HPSv2's in either layout: a safetensors
    file, or a folder or hub id that has one.
    """

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its questions aren't used."""
        return super().score([replace(item, image=_pad_to_square(item.image)) for item in items])

    def rewards(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return 100 x the cosine similarities, not clamped, with a gradient."""
        return super().rewards(pad_pixels_to_square(pixels_BCHW), prompts)


def _pad_to_square(image: Image.Image) -> Image.Image:
    """Pad the image to a square with black, as in HPSv2's training, since CLIP's processor would crop it."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square
