"""How well a picture fits its prompt by a CLIP's or a SigLIP's embeddings (Eq. 3)."""

from collections.abc import Sequence

from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.backbone import backbone, likeness


class Clip:
    """100 x the cosine of the picture's and the prompt's embeddings, at least 0.

    `path` is a folder or hub id of a CLIP, SigLIP or SigLIP 2; `weights`, a safetensors file or a folder or hub id of
    one, take the place of its own. A SigLIP's cosines are much smaller than a CLIP's: its
    sigmoid puts a scale and a bias on them, which leaves the order of pictures of one prompt as it is.
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
        self._backbone = backbone(path, revision, dtype, device, weights)

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """One result for each item, its questions left aside."""
        return likeness(self._backbone, items)
