"""The aesthetic head: rates an image 0..10 from its CLIP embedding, trained on images spoilt to known degrees.

The rating measures how well an image is drawn, not how much it shows: the pool has equally many images of each number
of things, and the loss has a term that keeps the mean error the same for each number.
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
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.scene import MAX_THINGS
from agfsync.shapes.training.images import sample_scene, spoil_image
from agfsync.shapes.training.lessons import Lesson, Pupil, WholeBatch, plan_lesson, training_device
from agfsync.training.objective import Actor, Metrics

AESTHETIC_PLAN = plan_lesson(steps=2500, batch=256, learning_rate=3e-3, weight_decay=0.3)
RATED_POOL = 10_000
"""Number of images that are embedded once, each untouched or spoilt in one way to one degree."""
BEST, WORST = 9.0, 1.0
"""Ratings of an untouched image and of an image spoilt to degree 1."""
EVENNESS = 20.0
"""Weight of the variance of the mean error over the numbers of things."""
_SHRINKAGE = 0.01
"""Regularisation of the whitening: added to the embeddings' variances, as a share of the mean variance."""


def prepare_aesthetic(folder: Path) -> Pupil:
    """Return a head to train on images spoilt to known degrees, embedded by the CLIP in `folder`."""
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32, use_safetensors=True).to(training_device())
    torch.manual_seed(AESTHETIC_PLAN.seed)
    head = Head(clip.config.projection_dim, (64, 32), activation="relu").to(training_device())
    images = embed_images(clip, random.Random(f"aesthetic/{AESTHETIC_PLAN.seed}"))
    mean_D, whiten_DD = find_whitening(images.embeddings_BD)

    def save(target: Path) -> None:
        fold_whitening(head, mean_D, whiten_DD)
        head.half().save(target)

    whitened = RatedEmbeddings((images.embeddings_BD - mean_D) @ whiten_DD, images.ratings_B, images.counts_B)
    return Pupil(head, [AestheticLesson("aesthetic", AESTHETIC_PLAN, whitened)], save)


@dataclass(frozen=True)
class RatedEmbeddings(WholeBatch):
    """Embeddings of images (B, D), and for each its target rating and its number of things (B,)."""

    embeddings_BD: Tensor
    ratings_B: Tensor
    counts_B: Tensor


@dataclass(frozen=True)
class AestheticLesson(Lesson):
    """The squared error of the rating, and the unevenness of the error over the numbers of things."""

    pool: RatedEmbeddings

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[RatedEmbeddings]:
        """Sample images from the pool."""
        pool = self.pool
        chosen = self.seed_step(step).sample(range(len(pool.ratings_B)), self.plan.batch)
        chosen_B = torch.tensor(chosen, device=actor.device)
        return [RatedEmbeddings(pool.embeddings_BD[chosen_B], pool.ratings_B[chosen_B], pool.counts_B[chosen_B])]

    def loss(self, actor: Actor, batch: RatedEmbeddings) -> tuple[Tensor, Metrics]:
        """Return the weighted sum of both terms, and the mean absolute error as a metric."""
        error_B = actor.network(batch.embeddings_BD) - batch.ratings_B
        uneven = measure_unevenness(error_B, batch.counts_B, batch.ratings_B == BEST)
        loss = error_B.square().mean() + EVENNESS * uneven
        return loss, {"loss": loss.detach(), "rating error": error_B.detach().abs().mean()}


def rate_degree(degree: float) -> float:
    """Return the target rating of an image spoilt to `degree`, in 0..1."""
    return BEST - (BEST - WORST) * degree


@torch.no_grad()
def embed_images(clip: CLIPModel, rng: random.Random) -> RatedEmbeddings:
    """Embed `RATED_POOL` images: equally many of each number of things, about half of them spoilt."""
    degrees = [rng.choice((0.0, rng.random())) for _ in range(RATED_POOL)]
    counts = [1 + n % MAX_THINGS for n in range(RATED_POOL)]
    embeddings = []
    for start in range(0, RATED_POOL, 100):
        some = zip(counts[start : start + 100], degrees[start : start + 100], strict=True)
        images = [spoil_image(draw_scene(sample_scene(rng, count)), degree, rng) for count, degree in some]
        embeddings.append(clip.get_image_features(pixel_values=to_tensor(images).to(clip.device)).pooler_output)
    ratings_B = torch.tensor([rate_degree(degree) for degree in degrees], device=clip.device)
    counts_B = torch.tensor(counts, device=clip.device)
    return RatedEmbeddings(F.normalize(torch.cat(embeddings), dim=-1), ratings_B, counts_B)


def measure_unevenness(error_B: Tensor, counts_B: Tensor, untouched_B: Tensor) -> Tensor:
    """Return the variance of the mean error over the numbers of things, summed over untouched and spoilt images."""
    total = error_B.new_zeros(())
    for group_B in (untouched_B, ~untouched_B):
        of_counts = [error_B[group_B & (counts_B == count)] for count in counts_B.unique().tolist()]
        means = [errors.mean() for errors in of_counts if len(errors)]
        if len(means) > 1:
            total = total + torch.stack(means).var(correction=0)
    return total


def find_whitening(embeddings_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D) and the matrix (D, D) that give embeddings unit variance in every direction.

    Most variance of CLIP embeddings is due to what is shown. How well it is drawn lies in directions of little
    variance, from which a head on the plain embeddings hardly learns.
    """
    mean_D = embeddings_ND.mean(dim=0)
    directions_DD, variances_D, _ = torch.linalg.svd(torch.cov((embeddings_ND - mean_D).T))
    return mean_D, directions_DD / (variances_D + _SHRINKAGE * variances_D.mean()).sqrt()


@torch.no_grad()
def fold_whitening(head: Head, mean_D: Tensor, whiten_DD: Tensor) -> None:
    """Fold the whitening into the head's first layer, so that the head takes plain embeddings."""
    first = next(layer for layer in head.layers if isinstance(layer, torch.nn.Linear))
    first.weight.copy_(first.weight @ whiten_DD.T)
    first.bias.sub_(first.weight @ mean_D)
