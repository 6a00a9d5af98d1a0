"""The match of image and prompt by the embeddings of a CLIP or SigLIP (Eq. 3)."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.backbone import measure_likeness, reward_likeness, share_backbone


class Clip:
    """The CLIP scorer: 100 x the cosine similarity of the embeddings of image and prompt, at least 0.

    `path` is a folder or hub id of a CLIP, SigLIP or SigLIP 2. `weights` replace the model's own: a safetensors file,
    or a folder or hub id that has one. SigLIP's cosines are much smaller than CLIP's: its sigmoid adds a scale and a
    bias, which don't change the order of the images of a prompt.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        weights: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._backbone = share_backbone(path, revision, dtype, device, weights)

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its questions aren't used."""
        return measure_likeness(self._backbone, items)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the unit-norm embeddings of RGB images, float32 (B, E) on the CPU."""
        return self._backbone.embed_images(images)

    def rewards(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return 100 x the cosine similarities, not clamped, with a gradient."""
        return reward_likeness(self._backbone, pixels_BCHW, prompts)
