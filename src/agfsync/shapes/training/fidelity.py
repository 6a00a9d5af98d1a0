"""The fidelity network's training: drawings with known flaws, most of them smeared by the generator's autoencoder."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from agfsync.models.latents import to_tensor
from agfsync.shapes.fidelity import FidelityNetwork
from agfsync.shapes.training.flaws import FlawedDrawing, draw_flawed, smear_by_vae
from agfsync.shapes.training.lessons import Lesson, Pupil, WholeBatch, plan_lesson, training_device
from agfsync.shapes.training.vae import load_vae
from agfsync.training.objective import Actor, Metrics

FIDELITY_PLAN = plan_lesson(steps=2000, batch=64, learning_rate=2e-3, weight_decay=0.05)
FIDELITY_POOL = 6000
"""Number of drawings that the autoencoder smears once; each is used several times, mirrored at random."""
_FRESH = 0.2
"""Share of a batch that is drawn for its step and not smeared."""
_AT_ONCE = 100


def prepare_fidelity(folder: Path) -> Pupil:
    """Return a network to train on drawings with flaws, most of them smeared by the VAE in `folder`."""
    torch.manual_seed(FIDELITY_PLAN.seed)
    network, vae = FidelityNetwork().to(training_device()), load_vae(folder)
    rng = random.Random(f"fidelity/{FIDELITY_PLAN.seed}")
    pool: list[FlawedDrawing] = []
    while len(pool) < FIDELITY_POOL:
        pool += smear_by_vae(vae, [draw_flawed(rng) for _ in range(_AT_ONCE)], rng)
    lesson = FidelityLesson("fidelity", FIDELITY_PLAN, _stack_drawings(pool))
    return Pupil(network, [lesson], lambda target: network.half().save(target))


def rate_fidelity(drawing: FlawedDrawing) -> float:
    """Return the share in 0..1 of a drawing's things that are whole; a thing counts by the share of readings with it.

    An image without things has the share 1, since nothing is broken.
    """
    if not drawing.drawn:
        return 1.0
    readings = drawing.readings
    whole = [sum(thing in reading.things for reading in readings) / len(readings) for thing in drawing.drawn]
    return sum(whole) / len(whole)


@dataclass(frozen=True)
class RatedDrawings(WholeBatch):
    """Images in -1..1 (B, 3, H, W) and their fidelity in 0..1 (B,)."""

    pixels_BCHW: Tensor
    fidelity_B: Tensor


@dataclass(frozen=True)
class FidelityLesson(Lesson):
    """The cross-entropy between the network's share of whole things and the true one."""

    pool: RatedDrawings

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[RatedDrawings]:
        """Draw some images and sample the others from the pool, mirrored at random."""
        rng, pool = self.seed_step(step), self.pool
        fresh = _stack_drawings([draw_flawed(rng) for _ in range(max(1, round(_FRESH * self.plan.batch)))])
        chosen_B = torch.tensor(rng.sample(range(len(pool.fidelity_B)), self.plan.batch - len(fresh.fidelity_B)))
        pixels_BCHW = torch.cat([fresh.pixels_BCHW, pool.pixels_BCHW[chosen_B]])
        fidelity_B = torch.cat([fresh.fidelity_B, pool.fidelity_B[chosen_B]])
        flipped = [axis for axis in (2, 3) if rng.random() < 0.5]
        return [RatedDrawings(pixels_BCHW.flip(flipped).to(actor.device), fidelity_B.to(actor.device))]

    def loss(self, actor: Actor, batch: RatedDrawings) -> tuple[Tensor, Metrics]:
        """Return the mean cross-entropy, and the mean absolute error of the share as a metric."""
        logits_B = actor.network(batch.pixels_BCHW).float()
        loss = F.binary_cross_entropy_with_logits(logits_B, batch.fidelity_B)
        error = (logits_B.detach().sigmoid() - batch.fidelity_B).abs().mean()
        return loss, {"loss": loss.detach(), "fidelity error": error}


def _stack_drawings(drawings: Sequence[FlawedDrawing]) -> RatedDrawings:
    return RatedDrawings(to_tensor([d.image for d in drawings]), torch.tensor([rate_fidelity(d) for d in drawings]))
