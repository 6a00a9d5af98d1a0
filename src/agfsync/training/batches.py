"""The training images as tensors: encoded once, cached, and drawn in an order that depends only on the seed.

The cache is memory-mapped: a batch reads its rows from the disk, so the images may be larger than memory.

Legend: I images, P pairs, B samples of a batch, C H W latent channels, height, width.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from agfsync.files.tensors import read_tensors, write_tensors
from agfsync.records import derive_seed
from agfsync.training import Conditioning

PROMPT_PREFIX, IMAGE_PREFIX = "conditioning.", "image_conditioning."
"""Prefixes of the names of the conditioning's tensors in the cache."""
LATENTS, NOISE = "latents_ICHW", "noise_ICHW"
FORMAT = "5"
"""The version of the cache's format. 3 stored every tensor row by row; 4 had another name for IMAGE_PREFIX."""


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """A batch of images: clean latents (B, C, H, W) and conditioning (B rows). For pairs: winners, then losers."""

    latents_BCHW: Tensor
    conditioning: Conditioning


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Encoded pairs: the rows of each pair's winner and loser in the latents and of its prompt in the conditioning.

    The rows are int64 (P,). If captions are dropped, the last row of the conditioning is the empty prompt.
    `image_conditioning` is the conditioning on the images themselves, one row per image; most networks have none.
    `margin_P`, float32, is the winner's score minus the loser's. `noise_ICHW` is the noise that each image was drawn
    from; None unless the training uses tracked noise.
    """

    latents_ICHW: Tensor
    conditioning: Conditioning
    winner_P: Tensor
    loser_P: Tensor
    prompt_P: Tensor
    image_conditioning: Conditioning = field(default_factory=dict)
    margin_P: Tensor | None = None
    noise_ICHW: Tensor | None = None

    def __len__(self) -> int:
        return len(self.winner_P)

    def make_batch(self, rows: Tensor, device: torch.device, dropped: Tensor | None = None) -> LatentBatch:
        """Return the pairs at `rows`, int64 (P,), on `device`. `dropped`, bool (P,), marks dropped captions.

        Both images of such a pair get the empty prompt: otherwise the prompt would tell the winner from the loser.
        """
        images_B = torch.cat([self.winner_P[rows], self.loser_P[rows]])
        prompts_P = _drop_captions(self.prompt_P[rows], dropped)
        return _gather_images(self, images_B, prompts_P.repeat(2), device)

    def save(self, path: Path, digest: str) -> Self:
        """Write the pairs to `path` with the `digest` of their source; return them memory-mapped from that file."""
        _write_cache(self, path, digest, "winner_P", "loser_P", "prompt_P", "margin_P")
        return self.load(path, digest) or self

    @classmethod
    def load(cls, path: Path, digest: str) -> Self | None:
        """Return the pairs saved at `path`; None if the file is missing, damaged or has another digest."""
        found = _read_cache(path, digest)
        return None if found is None or "winner_P" not in found else cls(**found)


@dataclass(frozen=True, slots=True)
class RatedImages:
    """Encoded images, each with the row of its prompt, int64 (I,), and its rating by a method, float32 (I,).

    The other fields are as in `EncodedPairs`.
    """

    latents_ICHW: Tensor
    conditioning: Conditioning
    prompt_I: Tensor
    rating_I: Tensor
    image_conditioning: Conditioning = field(default_factory=dict)
    noise_ICHW: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_I)

    def make_batch(self, rows: Tensor, device: torch.device, dropped: Tensor | None = None) -> LatentBatch:
        """Return the images at `rows`, int64 (B,), on `device`. `dropped`, bool (B,), marks dropped captions."""
        return _gather_images(self, rows, _drop_captions(self.prompt_I[rows], dropped), device)

    def save(self, path: Path, digest: str) -> Self:
        """Write the images to `path` with the `digest` of their source; return them memory-mapped from that file."""
        _write_cache(self, path, digest, "prompt_I", "rating_I")
        return self.load(path, digest) or self

    @classmethod
    def load(cls, path: Path, digest: str) -> Self | None:
        """Return the images saved at `path`; None if the file is missing, damaged or has another digest."""
        found = _read_cache(path, digest)
        return None if found is None or "rating_I" not in found else cls(**found)


def _drop_captions(prompts_N: Tensor, dropped_N: Tensor | None) -> Tensor:
    return prompts_N if dropped_N is None else torch.where(dropped_N, -1, prompts_N)


def _gather_images(
    data: EncodedPairs | RatedImages, images_B: Tensor, prompts_B: Tensor, device: torch.device
) -> LatentBatch:
    conditioning = {name: tensor[prompts_B] for name, tensor in data.conditioning.items()}
    conditioning |= {name: tensor[images_B] for name, tensor in data.image_conditioning.items()}
    there = {name: tensor.to(device) for name, tensor in conditioning.items()}
    return LatentBatch(data.latents_ICHW[images_B].to(device), there)


def _write_cache(data: EncodedPairs | RatedImages, path: Path, digest: str, *columns: str) -> None:
    named = {name: getattr(data, name) for name in (LATENTS, NOISE, *columns)}
    tensors = {name: tensor for name, tensor in named.items() if tensor is not None}
    tensors |= _add_prefix(PROMPT_PREFIX, data.conditioning) | _add_prefix(IMAGE_PREFIX, data.image_conditioning)
    write_tensors(path, tensors, {"digest": digest, "format": FORMAT})


def _read_cache(path: Path, digest: str) -> dict[str, Any] | None:
    found = read_tensors(path)
    if found is None or (found.metadata.get("digest"), found.metadata.get("format")) != (digest, FORMAT):
        return None
    prompts, images = (_strip_prefix(prefix, found.tensors) for prefix in (PROMPT_PREFIX, IMAGE_PREFIX))
    columns = {name: tensor for name, tensor in found.tensors.items() if "." not in name}
    return {"conditioning": prompts, "image_conditioning": images, **columns}


def _add_prefix(prefix: str, conditioning: Conditioning) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in conditioning.items()}


def _strip_prefix(prefix: str, tensors: Conditioning) -> Conditioning:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def draw_rows_of_step(seed: int, step: int, size: int, items: int, groups: Tensor | None = None) -> Tensor:
    """Draw the rows of step `step`: `size` of `items`, int64 (size,).

    With `groups`, the group of each item, int64 (items,), the groups are shuffled and each group's items stay together.

    The shuffles of the epochs are concatenated and each step takes the next `size` rows, so that every item occurs once
    per epoch, and a resume needs only the number of the step.
    """
    places = range(step * size, (step + 1) * size)
    shuffles = {epoch: _shuffle(seed, epoch, items, groups) for epoch in {place // items for place in places}}
    return torch.stack([shuffles[place // items][place % items] for place in places])


def draw_dropped_rows(seed: int, step: int, size: int, share: float) -> Tensor | None:
    """Draw the dropped captions of step `step`, bool (size,), each True with probability `share`; None for 0."""
    if share == 0:
        return None
    return torch.rand(size, generator=torch.Generator().manual_seed(derive_seed(seed, "dropout", step))) < share


def _shuffle(seed: int, epoch: int, items: int, groups: Tensor | None = None) -> Tensor:
    source = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    if groups is None:
        return torch.randperm(items, generator=source)
    return torch.randperm(int(groups.max()) + 1, generator=source)[groups].argsort(stable=True)
