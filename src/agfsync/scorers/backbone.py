"""A CLIP or SigLIP that several scorers share: it is loaded once, and embeds each image of a batch once.

Shapes: B images, P prompts, E the embedding's width.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, Siglip2Model, SiglipModel

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers import Item, Measurement, Unscored, open_clip
from agfsync.scorers.pixels import PixelProcessor

FAMILIES: Mapping[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}
"""Supported values of a configuration's model_type -> model classes."""


class Backbone:
    """The image tower and the text tower of a model. Embeddings have unit norm and are fp32.

    They are on the CPU, except those of `embed_pixels`. `weights`, if given, is a safetensors file, or a folder or hub
    id that has one. Its tensors replace the model's own; they may have transformers' names or open_clip's.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
        weights: str | None = None,
    ) -> None:
        config = pretrained.load_config(path, revision)
        if config.model_type not in FAMILIES:
            raise ModelError(f"{path} is a {config.model_type} model: take one of {', '.join(FAMILIES)}")
        kind = FAMILIES[config.model_type]
        if weights is None:
            self._model = pretrained.load_model(kind, path, revision, dtype, device)
        else:
            tensors = open_clip.in_transformers_names(pretrained.load_tensors(weights))
            self._model = pretrained.fill_model(kind, config, tensors, weights, dtype, device)
        self._model.requires_grad_(False)
        self._processor = pretrained.load_image_processor(path, revision)
        self._tokenizer = pretrained.load_tokenizer(path, revision)
        self._path = path
        self._pads_in_full = config.model_type != "clip"
        self.limit: int = config.text_config.max_position_embeddings
        """The most tokens of a prompt that the model reads, with start and end token."""
        self.width: int = _find_width(config)
        self._images: dict[int, tuple[Image.Image, Tensor]] = {}
        self._texts: dict[str, tuple[Tensor, bool]] = {}

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings of the images, fp32 (B, E). The next scorer gets the last call's from a cache."""
        new = {id(image): image for image in images if id(image) not in self._images}
        if new:
            embedded = zip(new.values(), self._embed_images(list(new.values())), strict=True)
            self._images |= dict(zip(new, embedded, strict=True))
        # The key is the image's id, which no other image can get while the cache holds this one.
        self._images = {id(image): self._images[id(image)] for image in images}
        return torch.stack([self._images[id(image)][1] for image in images])

    def embed_texts(self, prompts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Return the embeddings of the prompts, fp32 (P, E), and True for each that was truncated to `limit`.

        The last call's embeddings are cached, since the images of a prompt follow each other.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts |= dict(zip(new, zip(*self._embed_texts(new), strict=True), strict=True))
        self._texts = {prompt: self._texts[prompt] for prompt in prompts}
        embeddings, cut = zip(*(self._texts[prompt] for prompt in prompts), strict=True)
        return torch.stack(embeddings), list(cut)

    def embed_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the embeddings of RGB pixels in 0..1, fp32 (B, E) on the pixels' device, with a gradient.

        Raises:
            ModelError: the image processor has a step that isn't implemented on tensors.
        """
        inputs = self._pixel_processor(pixels_BCHW)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        there = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
        embeddings: Tensor = normalize(self._model.get_image_features(**there).pooler_output.float(), dim=-1)
        return embeddings.to(pixels_BCHW.device)

    @cached_property
    def _pixel_processor(self) -> PixelProcessor:
        return PixelProcessor(self._processor, self._path)

    @torch.inference_mode()
    def _embed_images(self, images: list[Image.Image]) -> Tensor:
        inputs = self._processor([image.convert("RGB") for image in images], return_tensors="pt")
        # SigLIP 2's inputs also have the pixels' mask and the images' spatial shapes, of other dtypes.
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        return _normalize(self._model.get_image_features(**inputs.to(self._model.device)).pooler_output)

    @torch.inference_mode()
    def _embed_texts(self, prompts: list[str]) -> tuple[Tensor, list[bool]]:
        lengths = [len(ids) for ids in self._tokenizer(prompts, verbose=False)["input_ids"]]
        # SigLIP takes its embedding at the last position, which was padding in its training.
        padding = "max_length" if self._pads_in_full else True
        tokens = self._tokenizer(
            prompts, padding=padding, truncation=True, max_length=self.limit, return_tensors="pt"
        ).to(self._model.device)
        mask = None if self._pads_in_full else tokens["attention_mask"]
        output = self._model.get_text_features(tokens["input_ids"], attention_mask=mask)
        return _normalize(output.pooler_output), [length > self.limit for length in lengths]


_OPEN: WeakValueDictionary[tuple[str | None, ...], Backbone] = WeakValueDictionary()
"""The backbones in use; one that no scorer references any more is freed."""


def share_backbone(
    path: str, revision: str | None = None, dtype: str = "fp32", device: str = "auto", weights: str | None = None
) -> Backbone:
    """Return the `Backbone` of these settings; it is loaded only if no other scorer uses it.

    Raises:
        ModelError: there is no such model, or `FAMILIES` lacks its type.
    """
    key = (path, revision, dtype, device, weights)
    found = _OPEN.get(key)
    if found is None:
        found = _OPEN[key] = Backbone(*key)
    return found


def measure_likeness(of: Backbone, items: Sequence[Item]) -> list[Measurement | Unscored]:
    """Return 100 x the cosine similarity of each item's image and prompt embeddings (Eq. 3 with gamma = 100).

    A cosine below 0 counts as 0, as in CLIPScore, so that the value is in 0..100.
    """
    if not items:
        return []
    images_BE = of.embed_images([item.image for item in items])
    texts_BE, truncated = of.embed_texts([item.prompt for item in items])
    cosines: list[float] = (images_BE * texts_BE).sum(1).tolist()
    return [_measure_cosine(cosine, cut) for cosine, cut in zip(cosines, truncated, strict=True)]


def reward_likeness(of: Backbone, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return 100 x the cosine similarity of each image and its prompt, fp32 (B,), with the pixels' gradient.

    Unlike `measure_likeness`, it doesn't clamp at 0, where the gradient would vanish.
    """
    texts_BE, _ = of.embed_texts(prompts)
    # A clone of an inference tensor is an ordinary tensor, which autograd accepts.
    return 100 * (of.embed_pixels(pixels_BCHW) * texts_BE.clone().to(pixels_BCHW.device)).sum(1)


def _find_width(config: Any) -> int:
    """Return the width of the embeddings: that of CLIP's projection, or that of SigLIP's vision tower."""
    width: int = config.projection_dim if config.model_type == "clip" else config.vision_config.hidden_size
    return width


def _normalize(embeddings: Tensor) -> Tensor:
    return normalize(embeddings.float(), dim=-1).cpu()


def _measure_cosine(cosine: float, truncated: bool) -> Measurement | Unscored:
    if not math.isfinite(cosine):
        return Unscored("the model's embedding is not a number")
    return Measurement(100 * min(max(cosine, 0.0), 1.0), truncated=truncated)
