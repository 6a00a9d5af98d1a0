"""The pairs as tensors: encoded once before training, cached, and drawn in an order that depends on the seed alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from agfsync.files.tensors import read_tensors, write_tensors
from agfsync.records import derive_seed
from agfsync.training import Conditioning

ROLES = ("winner_P", "loser_P", "prompt_P")
PROMPTS, PICTURES = "conditioning.", "pictures."
"""Prefixes of the names of the conditioning's tensors in the cache."""
FORMAT = "2"
"""The format of the cache; format 1 had no conditioning on the images."""


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """A batch of pairs: clean latents (2P, C, H, W) and conditioning (2P rows), winners first, then their losers."""

    latents_BCHW: Tensor
    conditioning: Conditioning


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The winner, loser and prompt of every pair, as int64 (P,) rows of the images' latents and of the conditioning.

    If captions are dropped, the last row of the conditioning is that of the empty prompt. `pictures` is the
    conditioning on the images themselves, one row an image; most networks have none.
    """

    latents_ICHW: Tensor
    conditioning: Conditioning
    winner_P: Tensor
    loser_P: Tensor
    prompt_P: Tensor
    pictures: Conditioning = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.winner_P)

    def make_batch(self, rows: Tensor, device: torch.device, dropped: Tensor | None = None) -> LatentBatch:
        """Return the pairs at `rows`, int64 (P,), on `device`; those `dropped`, bool (P,), get the empty prompt.

        The winner and the loser of a pair lose their caption together: otherwise it would tell them apart.
        """
        images_B = torch.cat([self.winner_P[rows], self.loser_P[rows]])
        prompts_P = self.prompt_P[rows]
        if dropped is not None:
            prompts_P = torch.where(dropped, -1, prompts_P)
        conditioning = {name: tensor[prompts_P.repeat(2)] for name, tensor in self.conditioning.items()}
        conditioning |= {name: tensor[images_B] for name, tensor in self.pictures.items()}
        there = {name: tensor.to(device) for name, tensor in conditioning.items()}
        return LatentBatch(self.latents_ICHW[images_B].to(device), there)

    def save(self, path: Path, digest: str) -> None:
        """Write the pairs to `path`, with the digest of what they were encoded from."""
        tensors = {"latents_ICHW": self.latents_ICHW, **{role: getattr(self, role) for role in ROLES}}
        tensors |= _add_prefix(PROMPTS, self.conditioning) | _add_prefix(PICTURES, self.pictures)
        write_tensors(path, tensors, {"digest": digest, "format": FORMAT})

    @classmethod
    def load(cls, path: Path, digest: str) -> Self | None:
        """Return the pairs saved at `path` under `digest`; None if there are none, or they are damaged."""
        found = read_tensors(path)
        if found is None or (found.metadata.get("digest"), found.metadata.get("format")) != (digest, FORMAT):
            return None
        tensors = {name: found.tensors[name] for name in ("latents_ICHW", *ROLES)}
        prompts, pictures = (_strip_prefix(prefix, found.tensors) for prefix in (PROMPTS, PICTURES))
        return cls(conditioning=prompts, pictures=pictures, **tensors)


def _add_prefix(prefix: str, conditioning: Conditioning) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in conditioning.items()}


def _strip_prefix(prefix: str, tensors: Conditioning) -> Conditioning:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def draw_rows_of_step(seed: int, step: int, size: int, pairs: int) -> Tensor:
    """Draw the rows of step `step`: `size` of `pairs`, int64 (size,).

    The shuffles of the epochs are concatenated and each step takes the next `size` rows, so that every pair occurs once
    an epoch and a resume needs to know the step alone.
    """
    places = range(step * size, (step + 1) * size)
    shuffles = {epoch: _shuffle(seed, epoch, pairs) for epoch in {place // pairs for place in places}}
    return torch.stack([shuffles[place // pairs][place % pairs] for place in places])


def draw_dropped_rows(seed: int, step: int, size: int, share: float) -> Tensor | None:
    """Draw which pairs of step `step` lose their caption, bool (size,), each with probability `share`; None for 0."""
    if share == 0:
        return None
    return torch.rand(size, generator=torch.Generator().manual_seed(derive_seed(seed, "dropout", step))) < share


def _shuffle(seed: int, epoch: int, pairs: int) -> Tensor:
    return torch.randperm(pairs, generator=torch.Generator().manual_seed(derive_seed(seed, "order", epoch)))
