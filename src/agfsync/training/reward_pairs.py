"""The pairs that a reward model is trained on: images resized by its processor, prompts as tokens.

Legend: I images, Q prompts, P pairs, B images of a batch, T tokens, C H W colors, height, width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from agfsync.files.atomic import flush_to_disk, store_errors
from agfsync.scorers.reward_networks import RewardModel
from agfsync.training.precision import autocast


@dataclass(frozen=True, slots=True)
class RewardPairs:
    """Pairs of images: `winner_P` and `loser_P` are rows of the images, and `prompt_I` rows of the prompts, int64.

    `pixels_ICHW`, uint8, may be a memory-mapped file larger than memory. `tokens` are padded on the right.
    """

    pixels_ICHW: Tensor
    tokens: Mapping[str, Tensor]
    prompt_I: Tensor
    winner_P: Tensor
    loser_P: Tensor

    def __len__(self) -> int:
        return len(self.winner_P)

    @property
    def prompt_P(self) -> Tensor:
        """The row of each pair's prompt, int64 (P,)."""
        rows: Tensor = self.prompt_I[self.winner_P]
        return rows

    @property
    def images(self) -> Tensor:
        """The rows of the images that are in a pair, int64, without duplicates."""
        rows: Tensor = torch.cat([self.winner_P, self.loser_P]).unique()
        return rows

    def select(self, rows: Tensor) -> "RewardPairs":
        """Return the pairs at `rows`, int64 or bool (P,); all images are kept."""
        return replace(self, winner_P=self.winner_P[rows], loser_P=self.loser_P[rows])

    def embed(self, model: RewardModel, images_B: Tensor, precision: str) -> Tensor:
        """Return the head's inputs for the images at these rows, fp32 (B, E), on the model's device."""
        pixels_BCHW = self.pixels_ICHW[images_B].to(model.device)
        tokens = {name: each[self.prompt_I[images_B]] for name, each in self.tokens.items()}
        longest = int(tokens["attention_mask"].sum(1).max())
        there = {name: each[:, :longest].to(model.device) for name, each in tokens.items()}
        with autocast(model.device, precision):
            embeddings_BE: Tensor = model.network.embed(model.standardise_images(pixels_BCHW), there)
        return embeddings_BE

    @torch.no_grad()
    def rate(self, model: RewardModel, images_I: Tensor, precision: str, batch: int) -> Tensor:
        """Return the model's outputs for the images at these rows, fp32 (I,), on the CPU."""
        parts = [self.embed(model, images_B, precision) for images_B in images_I.split(batch)]
        return torch.cat([model.network.mlp(part).float().cpu() for part in parts])

    def subtract_outputs(self, model: RewardModel, precision: str, batch: int) -> Tensor:
        """Return each winner's output minus its loser's, fp32 (P,), on the CPU; each image is rated once."""
        images = self.images
        outputs = self.rate(model, images, precision, batch)
        winner_P, loser_P = (outputs[torch.searchsorted(images, rows)] for rows in (self.winner_P, self.loser_P))
        return winner_P - loser_P


def map_pixels(path: Path, count: int, batches: Iterable[Tensor]) -> Tensor:
    """Return the `count` images in `batches`, uint8 (B, C, H, W), as a tensor that is memory-mapped from `path`.

    An existing file is used as it is, and `batches` isn't iterated: a file is renamed to `path` once it is complete.

    Raises:
        StoreError: the disk fails.
    """
    with store_errors(path):
        if not path.is_file():
            beside, done = path.with_suffix(".partial"), 0
            path.parent.mkdir(parents=True, exist_ok=True)
            file: np.memmap | None = None
            for pixels_BCHW in batches:
                if file is None:
                    file = open_memmap(beside, mode="w+", dtype=np.uint8, shape=(count, *pixels_BCHW.shape[1:]))
                file[done : done + len(pixels_BCHW)] = pixels_BCHW.numpy()
                done += len(pixels_BCHW)
            assert file is not None and done == count
            file.flush()
            flush_to_disk(beside)
            beside.replace(path)
            flush_to_disk(path.parent)
        # Copy-on-write, since torch needs a writable array.
        return torch.from_numpy(open_memmap(path, mode="c"))
