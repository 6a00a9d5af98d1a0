"""The pairs as tensors: encoded once before training, cached, and dealt out in an order that follows from the seed."""

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
"""of the names of the conditioning's tensors in the cache"""
FORMAT = "2"
"""of the cache: the first had nothing of the pictures themselves"""


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """Some pairs: clean latents (2P, C, H, W) and conditioning (2P rows), the winners first, then their losers."""

    latents_BCHW: Tensor
    conditioning: Conditioning


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Every pair's winner, loser and prompt, as int64 (P,) rows of the images' latents and of the conditioning.

    Where captions are to be dropped, the conditioning's last row is that of the empty prompt. `pictures` is what the
    network is told of the images themselves, a row each, whatever the prompt: none for most.
    """

    latents_ICHW: Tensor
    conditioning: Conditioning
    winner_P: Tensor
    loser_P: Tensor
    prompt_P: Tensor
    pictures: Conditioning = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.winner_P)

    def batch(self, rows: Tensor, device: torch.device, dropped: Tensor | None = None) -> LatentBatch:
        """The pairs at `rows`, on `device`; those of them that are `dropped`, bool (P,), under the empty prompt.

        A pair's winner and its loser lose their caption together: else the caption itself would tell them apart.
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
        """Keeps them at `path` for a resume."""
        tensors = {"latents_ICHW": self.latents_ICHW, **{role: getattr(self, role) for role in ROLES}}
        tensors |= _prefixed(PROMPTS, self.conditioning) | _prefixed(PICTURES, self.pictures)
        write_tensors(path, tensors, {"digest": digest, "format": FORMAT})

    @classmethod
    def load(cls, path: Path, digest: str) -> Self | None:
        """Those that were saved at `path` under `digest`, if they are there."""
        found = read_tensors(path)
        if found is None or (found.metadata.get("digest"), found.metadata.get("format")) != (digest, FORMAT):
            return None
        tensors = {name: found.tensors[name] for name in ("latents_ICHW", *ROLES)}
        prompts, pictures = (_unprefixed(prefix, found.tensors) for prefix in (PROMPTS, PICTURES))
        return cls(conditioning=prompts, pictures=pictures, **tensors)


def _prefixed(prefix: str, conditioning: Conditioning) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in conditioning.items()}


def _unprefixed(prefix: str, tensors: Conditioning) -> Conditioning:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def rows_of_step(seed: int, step: int, size: int, pairs: int) -> Tensor:
    """Which `size` of `pairs` step `step` trains on: int64 (size,).

    The epochs' shuffles stand end to end and a step takes the next `size` of them, so that every pair comes up once an
    epoch and a resume needs to know nothing but the step.
    """
    places = range(step * size, (step + 1) * size)
    shuffles = {epoch: _shuffle(seed, epoch, pairs) for epoch in {place // pairs for place in places}}
    return torch.stack([shuffles[place // pairs][place % pairs] for place in places])


def dropped_of_step(seed: int, step: int, size: int, share: float) -> Tensor | None:
    """Which of the `size` pairs of step `step` lose their caption, bool (size,): each with the probability `share`."""
    if share == 0:
        return None
    return torch.rand(size, generator=torch.Generator().manual_seed(derive_seed(seed, "dropout", step))) < share


def _shuffle(seed: int, epoch: int, pairs: int) -> Tensor:
    return torch.randperm(pairs, generator=torch.Generator().manual_seed(derive_seed(seed, "order", epoch)))
