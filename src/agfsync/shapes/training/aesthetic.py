"""The aesthetic head: rates a picture 0..10 from its CLIP embedding, having seen good pictures spoilt by degrees."""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from agfsync.generators.tensors import to_tensor
from agfsync.scorers.heads import Head
from agfsync.shapes.drawing import draw
from agfsync.shapes.training.loop import Plan, Tell, device, train
from agfsync.shapes.training.pictures import any_scene
from agfsync.shapes.training.spoiling import spoil

PLAN = Plan("aesthetic", steps=3000, batch=128, learning_rate=5e-3)
POOL = 6000
"""Pictures that are embedded once, each spoilt in one way and to one degree."""
BEST, WORST = 9.0, 1.0
"""Ratings of an untouched picture and of one spoilt to the full."""


def teach(clip: CLIPModel, folder: Path, tell: Tell, plan: Plan = PLAN) -> Head:
    """Trains a head on embeddings of pictures and the degree to which they were spoilt."""
    torch.manual_seed(plan.seed)
    head = Head(clip.config.projection_dim, (64, 32), activation="relu").to(device())
    embeddings, ratings = _pool(clip, random.Random(f"aesthetic/{plan.seed}"))

    def loss(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.tensor(rng.sample(range(len(ratings)), plan.batch), device=ratings.device)
        error = head(embeddings[chosen]) - ratings[chosen]
        return error.square().mean(), {"rating error": error.abs().mean().item()}

    train(plan, head, loss, folder, tell)
    return head


def rating(degree: float) -> float:
    """The rating that a picture spoilt to `degree` deserves."""
    return BEST - (BEST - WORST) * degree


@torch.no_grad()
def _pool(clip: CLIPModel, rng: random.Random) -> tuple[Tensor, Tensor]:
    degrees = [rng.choice((0.0, rng.random())) for _ in range(POOL)]
    embeddings = []
    for start in range(0, POOL, 100):
        images = [spoil(draw(any_scene(rng)), degree, rng) for degree in degrees[start : start + 100]]
        embeddings.append(clip.get_image_features(pixel_values=to_tensor(images).to(device())).pooler_output)
    ratings = torch.tensor([rating(degree) for degree in degrees], device=device())
    return F.normalize(torch.cat(embeddings), dim=-1), ratings
