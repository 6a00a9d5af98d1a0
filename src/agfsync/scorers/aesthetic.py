"""The aesthetic score (Eq. 4): a small network on CLIP's image embedding; the prompt isn't used."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.backbone import share_backbone
from agfsync.scorers.heads import Head


class Aesthetic:
    """The aesthetic scorer: 10 x the head's rating of the image's normalised embedding, clamped to 0..100 (Eq. 4).

    `path` is the CLIP on which the head was trained. `head` is a safetensors file, a folder or a hub id: LAION's V1 or
    V2, which both rate in 0..10, or a head of this project.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        head: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        if head is None:
            raise ModelError("an aesthetic scorer needs a head: name a file, a folder, a hub id or embedded:aesthetic")
        self._backbone = share_backbone(path, revision, dtype, device)
        self._head = Head.load(head).requires_grad_(False)
        if self._head.embedding_dim != self._backbone.width:
            raise ModelError(
                f"the head {head} reads embeddings of width {self._head.embedding_dim}, {path} makes "
                f"{self._backbone.width}: take the CLIP that the head was trained on"
            )

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its prompt and questions aren't used."""
        if not items:
            return []
        ratings: list[float] = self._head(self._backbone.embed_images([item.image for item in items])).tolist()
        return [_measure_rating(rating) for rating in ratings]

    def rewards(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return 10 x the ratings, not clamped, with a gradient."""
        # The head is on the CPU, like the embeddings in `score`.
        ratings_B: Tensor = self._head(self._backbone.embed_pixels(pixels_BCHW).cpu())
        return 10 * ratings_B.to(pixels_BCHW.device)


def _measure_rating(rating: float) -> Measurement | Unscored:
    if not math.isfinite(rating):
        return Unscored("the head's rating is not a number")
    return Measurement(10 * min(max(rating, 0.0), 10.0))
