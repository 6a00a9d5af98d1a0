"""The aesthetic head: rates a picture 0..10 from its CLIP embedding, having seen good pictures spoilt by degrees.

The rating is of how well a picture is drawn, not of how much it shows: the pool has as many pictures of one thing as of
four, and the head is taught to err no more on one number of things than on another.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from agfsync.models.latents import to_tensor
from agfsync.scorers.heads import Head
from agfsync.shapes.drawing import draw
from agfsync.shapes.scene import MAX_THINGS
from agfsync.shapes.training.loop import Plan, Tell, device, train
from agfsync.shapes.training.pictures import scene_of
from agfsync.shapes.training.spoiling import spoil

PLAN = Plan("aesthetic", steps=2500, batch=256, learning_rate=3e-3, weight_decay=0.3)
POOL = 10_000
"""Pictures that are embedded once, each spoilt in one way and to one degree."""
BEST, WORST = 9.0, 1.0
"""Ratings of an untouched picture and of one spoilt to the full."""
EVENNESS = 20.0
"""Weight of the squared differences between the mean errors on each number of things."""
_SHRINKAGE = 0.01
"""Added to the variances of the embeddings, as a share of their mean, before they are scaled to one."""


def teach(clip: CLIPModel, folder: Path, tell: Tell, plan: Plan = PLAN) -> Head:
    """Train a head on embeddings of pictures and the degree to which they were spoilt."""
    torch.manual_seed(plan.seed)
    head = Head(clip.config.projection_dim, (64, 32), activation="relu").to(device())
    pool = _pool(clip, random.Random(f"aesthetic/{plan.seed}"))
    mean_D, whiten_DD = _whitening(pool.embeddings_ND)
    inputs_ND = (pool.embeddings_ND - mean_D) @ whiten_DD

    def loss(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.tensor(rng.sample(range(len(inputs_ND)), plan.batch), device=device())
        error_B = head(inputs_ND[chosen]) - pool.ratings_N[chosen]
        uneven = _unevenness(error_B, pool.counts_N[chosen], pool.ratings_N[chosen] == BEST)
        return error_B.square().mean() + EVENNESS * uneven, {"rating error": error_B.abs().mean().item()}

    train(plan, head, loss, folder, tell)
    _fold(head, mean_D, whiten_DD)
    return head


def rating(degree: float) -> float:
    """Return the rating that a picture spoilt to `degree` deserves."""
    return BEST - (BEST - WORST) * degree


@dataclass(frozen=True, slots=True)
class _Pool:
    embeddings_ND: Tensor
    ratings_N: Tensor
    counts_N: Tensor
    """how many things each picture shows"""


@torch.no_grad()
def _pool(clip: CLIPModel, rng: random.Random) -> _Pool:
    """Embed `POOL` pictures: as many of each number of things, half of them spoilt."""
    degrees = [rng.choice((0.0, rng.random())) for _ in range(POOL)]
    counts = [1 + n % MAX_THINGS for n in range(POOL)]
    embeddings = []
    for start in range(0, POOL, 100):
        some = zip(counts[start : start + 100], degrees[start : start + 100], strict=True)
        images = [spoil(draw(scene_of(count, rng)), degree, rng) for count, degree in some]
        embeddings.append(clip.get_image_features(pixel_values=to_tensor(images).to(device())).pooler_output)
    ratings = torch.tensor([rating(degree) for degree in degrees], device=device())
    return _Pool(F.normalize(torch.cat(embeddings), dim=-1), ratings, torch.tensor(counts, device=device()))


def _unevenness(error_B: Tensor, counts_B: Tensor, untouched_B: Tensor) -> Tensor:
    """Return the variance of the mean error over the numbers of things, of untouched and spoilt pictures together."""
    means: Sequence[Tensor]
    total = error_B.new_zeros(())
    for group_B in (untouched_B, ~untouched_B):
        means = [error_B[group_B & (counts_B == count)] for count in counts_B.unique().tolist()]
        means = [errors.mean() for errors in means if len(errors)]
        if len(means) > 1:
            total = total + torch.stack(list(means)).var(correction=0)
    return total


def _whitening(embeddings_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D) and the matrix (D, D) that give embeddings unit variance in every direction.

    A CLIP's embeddings vary most in what is shown; how well it is drawn lies in directions of little variance, which a
    head on the bare embeddings hardly learns to read.
    """
    mean_D = embeddings_ND.mean(dim=0)
    directions_DD, variances_D, _ = torch.linalg.svd(torch.cov((embeddings_ND - mean_D).T))
    return mean_D, directions_DD / (variances_D + _SHRINKAGE * variances_D.mean()).sqrt()


@torch.no_grad()
def _fold(head: Head, mean_D: Tensor, whiten_DD: Tensor) -> None:
    """Make the whitening part of the head's first layer, so that the head reads embeddings as they are."""
    first = next(layer for layer in head.layers if isinstance(layer, torch.nn.Linear))
    first.weight.copy_(first.weight @ whiten_DD.T)
    first.bias.sub_(first.weight @ mean_D)
