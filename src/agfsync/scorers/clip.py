"""How well a picture fits its prompt by a CLIP's embeddings (Eq. 3).

Shapes: B pictures, P prompts, E the embedding's width.
"""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel

from agfsync import pretrained
from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Unscored


class ClipEmbedder:
    """A CLIP's image side and text side. Embeddings have length 1 and lie in fp32 on the CPU."""

    def __init__(self, model: str, revision: str | None, dtype: str, device: str) -> None:
        self._model = pretrained.load_model(CLIPModel, model, revision, dtype, device)
        self._processor = pretrained.load_image_processor(model, revision)
        self._tokenizer = pretrained.load_tokenizer(model, revision)
        self.limit: int = self._model.config.text_config.max_position_embeddings
        """Tokens of a prompt that the model sees, its start and end included."""
        self.width: int = self._model.config.projection_dim

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings BE of the pictures."""
        pixels_BCHW = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        pixels_BCHW = pixels_BCHW.to(self._model.device, self._model.dtype)
        return _unit(self._model.get_image_features(pixels_BCHW).pooler_output)

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Embeddings PE of the prompts, and for each whether it was longer than `limit` and lost its end."""
        lengths = [len(ids) for ids in self._tokenizer(list(prompts), verbose=False)["input_ids"]]
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt"
        ).to(self._model.device)
        output = self._model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return _unit(output.pooler_output), [length > self.limit for length in lengths]


class Clip:
    """100 x the cosine of the picture's and the prompt's embeddings (Eq. 3 with gamma = 100).

    A cosine below 0 counts as 0, as in CLIPScore, so that the value keeps to 0..100.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        model: str,
        head: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        if head is not None:
            raise ModelError(f"a clip scorer has no head: leave out head '{head}'")
        self._clip = ClipEmbedder(model, revision, dtype, device)
        self._texts: dict[str, tuple[Tensor, bool]] = {}

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """One result for each item, its questions left aside."""
        if not items:
            return []
        images_BE = self._clip.images([item.image for item in items])
        self._embed([item.prompt for item in items])
        texts, truncated = zip(*(self._texts[item.prompt] for item in items), strict=True)
        cosines = (images_BE * torch.stack(texts)).sum(1).tolist()
        return [_measured(cosine, cut) for cosine, cut in zip(cosines, truncated, strict=True)]

    def _embed(self, prompts: list[str]) -> None:
        """Keep the prompts in mind with their embeddings E. A prompt's pictures come together: one call's will do."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts |= dict(zip(new, zip(*self._clip.texts(new), strict=True), strict=True))
        self._texts = {prompt: self._texts[prompt] for prompt in prompts}


def _unit(embeddings: Tensor) -> Tensor:
    return normalize(embeddings.float(), dim=-1).cpu()


def _measured(cosine: float, truncated: bool) -> Measurement | Unscored:
    if not math.isfinite(cosine):
        return Unscored("the model's embedding is not a number")
    return Measurement(100 * min(max(cosine, 0.0), 1.0), truncated=truncated)
