"""PickScore: a CLIP-H tuned on the choices that people made between two pictures (Kirstain et al., 2023).

Pick-a-Pic, arXiv 2305.01569; weights yuvalkirstain/PickScore_v1, in transformers' layout.
"""

from collections.abc import Sequence

from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.backbone import backbone, likeness


class PickScore:
    """100 x the cosine of the picture's and the prompt's embeddings, at least 0.

    The paper's score is the cosine times the model's learned scale, which CLIP caps at 100: the same number then, and
    in any case the same order of pictures.

    `model` is a folder or hub id of the whole model. Where one with PickScore's weights lacks a tokenizer and an image
    processor, `model` is the CLIP-H that it was tuned from, laion/CLIP-ViT-H-14-laion2B-s32B-b79K, and `weights` are
    PickScore's own: a safetensors file, or a folder or hub id of one.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        model: str,
        weights: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._backbone = backbone(model, revision, dtype, device, weights)

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """One result for each item, its questions left aside."""
        return likeness(self._backbone, items)
