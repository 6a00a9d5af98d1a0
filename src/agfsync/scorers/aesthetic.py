"""How good a picture is to look at, whatever its prompt (Eq. 4): a small network on a CLIP's image embedding.

Shapes: B pictures, E the embedding's width.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from agfsync import pretrained
from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.clip import ClipEmbedder

Activation = Literal["none", "relu"]


class AestheticHead(nn.Module):
    """A multilayer perceptron from an embedding of length 1 to a rating of about 0..10.

    The defaults are the LAION aesthetic predictor V2 on CLIP-L/14, and the weights have its names: `layers.N.weight`,
    where the dropouts take a number too. LAION's layers have no activation between them.

    A head's folder has `config.json` (`embedding_dim`, `hidden`, `activation`) and `model.safetensors`.
    """

    def __init__(
        self, embedding_dim: int = 768, hidden: Sequence[int] = (1024, 128, 64, 16), activation: Activation = "none"
    ) -> None:
        super().__init__()
        self.config = {"embedding_dim": embedding_dim, "hidden": list(hidden), "activation": activation}
        self.embedding_dim = embedding_dim
        self.layers = nn.Sequential(*_layers(embedding_dim, list(hidden)))
        self._activate = nn.functional.relu if activation == "relu" else nn.Identity()

    def forward(self, embeddings_BE: Tensor) -> Tensor:
        """Ratings of the embeddings, B; not clamped, so that training sees every error."""
        *hidden, last = self.layers
        for layer in hidden:
            embeddings_BE = (
                self._activate(layer(embeddings_BE)) if isinstance(layer, nn.Linear) else layer(embeddings_BE)
            )
        ratings: Tensor = last(embeddings_BE).squeeze(-1)
        return ratings

    def save(self, folder: Path) -> None:
        """Writes the head to `folder`, in the dtype it has."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))

    @classmethod
    def from_folder(cls, folder: Path | str, revision: str | None = None) -> Self:
        """The head in a folder or of a hub id, in fp32 and evaluation mode.

        Raises:
            ModelError: there is none, or its files don't fit each other.
        """
        config = pretrained.find_file(str(folder), "config.json", revision)
        weights = pretrained.find_file(str(folder), "model.safetensors", revision)
        with pretrained.explained(str(folder)):
            settings = json.loads(config.read_text(encoding="utf-8"))
            head = cls(**{key: settings[key] for key in ("embedding_dim", "hidden", "activation") if key in settings})
            load_model(head, weights)
        return head.float().eval()


class Aesthetic:
    """Ten times the head's rating of the picture's CLIP embedding, clamped to 0..100 (Eq. 4).

    `model` is the CLIP that the head was trained on, `head` a folder or hub id of an `AestheticHead`.
    """

    asks_questions = False

    def __init__(
        self, *, model: str, head: str | None, revision: str | None = None, dtype: str = "fp32", device: str = "auto"
    ) -> None:
        if head is None:
            raise ModelError("an aesthetic scorer needs a head: name a folder, a hub id or embedded:aesthetic")
        self._clip = ClipEmbedder(model, revision, dtype, device)
        self._head = AestheticHead.from_folder(head)
        if self._head.embedding_dim != self._clip.width:
            raise ModelError(
                f"the head {head} reads embeddings of width {self._head.embedding_dim}, {model} makes "
                f"{self._clip.width}: take the CLIP that the head was trained on"
            )

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """One result for each item, its prompt and questions left aside."""
        if not items:
            return []
        ratings: list[float] = self._head(self._clip.images([item.image for item in items])).tolist()
        return [_measured(rating) for rating in ratings]


def _layers(embedding_dim: int, hidden: list[int]) -> list[nn.Module]:
    """Linear layers with a dropout after each hidden one but the last, which is where LAION's predictor has them."""
    widths = [embedding_dim, *hidden]
    layers: list[nn.Module] = []
    for n, (width, next_width) in enumerate(zip(widths, hidden, strict=False), start=1):
        layers.append(nn.Linear(width, next_width))
        if n < len(hidden):
            layers.append(nn.Dropout(0.2))
    return [*layers, nn.Linear(widths[-1], 1)]


def _measured(rating: float) -> Measurement | Unscored:
    if not math.isfinite(rating):
        return Unscored("the head's rating is not a number")
    return Measurement(10 * min(max(rating, 0.0), 10.0))
