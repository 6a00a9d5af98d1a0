"""The objective on preference pairs that the methods `dpo`, `ipo` and `hinge` share; each adds its loss.

Diffusion models have no likelihood at hand. Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908) bounds it, and the
log-ratio of an image under the trained network and the reference becomes -(m - m^ref) / 2 times a weight that is part
of beta, where m is the squared error of the prediction.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from agfsync.models.schedules import LossSpace
from agfsync.training import DiffusionModel, Reference
from agfsync.training.batches import EncodedPairs, LatentBatch, draw_dropped_rows, draw_rows_of_step
from agfsync.training.noising import PairNoise, draw_pair_noise, squared_error
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.precision import autocast


@dataclass(frozen=True, slots=True)
class PairErrors:
    """The mean squared errors of a batch of pairs, each float32 (P,): the trained network's and the reference's.

    They are weighted by `NoiseSchedule.weight` at the time that the four errors of a pair share.
    """

    winner_P: Tensor
    loser_P: Tensor
    winner_reference_P: Tensor
    loser_reference_P: Tensor


_CPU = torch.device("cpu")

PairLoss = Callable[[PairErrors], tuple[Tensor, Metrics]]


class PairMethod(ABC):
    """A method on pairs; a subclass defines `loss(errors)`."""

    needs: ClassVar[Literal["pairs"]] = "pairs"
    trains: ClassVar[Literal["model"]] = "model"
    uses_reference: ClassVar[bool] = True
    curves: ClassVar[Sequence[str]] = ("loss", "implicit_accuracy", "winner_error_change", "loser_error_change")

    @abstractmethod
    def loss(self, errors: PairErrors) -> tuple[Tensor, Metrics]:
        """Return the scalar to minimise, a mean over the pairs, and the metrics to log: `curves`."""
        ...

    def objective(self, data: EncodedPairs, plan: TrainingPlan) -> "PairObjective":
        return PairObjective(self.loss, data, plan)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs of a step, with their noise."""

    pairs: EncodedPairs
    rows_P: Tensor
    """rows of `pairs`, int64"""
    noise: PairNoise
    dropped_P: Tensor | None
    """bool: pairs that are trained under the empty prompt"""
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.rows_P)

    def part(self, rows: Tensor, device: torch.device) -> "PairBatch":
        dropped_P = None if self.dropped_P is None else self.dropped_P[rows]
        return PairBatch(self.pairs, self.rows_P[rows], self.noise.select(rows), dropped_P, device)

    @property
    def tensors(self) -> LatentBatch:
        """The clean latents and conditioning on `device`, winners first, then their losers."""
        return self.pairs.make_batch(self.rows_P, self.device, self.dropped_P)


@dataclass(frozen=True, slots=True)
class PairObjective:
    """The objective of all methods on pairs: draw pairs, a noise and a time for each, and compare four errors."""

    pair_loss: PairLoss
    pairs: EncodedPairs
    plan: TrainingPlan

    def __len__(self) -> int:
        return len(self.pairs)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[PairBatch]:
        plan = self.plan
        rows_P = draw_rows_of_step(plan.seed, step, plan.batch, len(self.pairs))
        shape = torch.Size([plan.batch, *self.pairs.latents_ICHW.shape[1:]])
        model: Any = actor.model
        noise = draw_pair_noise(plan.seed, step, shape, model.schedule)
        dropped_P = draw_dropped_rows(plan.seed, step, plan.batch, plan.caption_dropout)
        return [PairBatch(self.pairs, rows_P, noise, dropped_P).part(rows, _CPU)]

    def loss(self, actor: Actor, batch: PairBatch) -> tuple[Tensor, Metrics]:
        model: Any = actor.model
        if actor.reference is None:
            raise ValueError("a method on pairs needs a reference")
        return self.pair_loss(
            compute_pair_errors(
                model,
                actor.reference,
                batch.tensors,
                batch.noise,
                actor.precision,
                self.plan.min_snr_gamma,
                self.plan.loss_space,
            )
        )


def compute_pair_errors(
    model: DiffusionModel,
    reference: Reference,
    batch: LatentBatch,
    noise: PairNoise,
    precision: str = "fp32",
    min_snr_gamma: float | None = None,
    loss_space: LossSpace = "model",
) -> PairErrors:
    """Return the four errors of each pair; winner and loser are one batch, with the same noise and time.

    They are errors of the network's prediction times `NoiseSchedule.weight`: of the noise (Diffusion-DPO), of v, or of
    a flow's velocity. The velocity's errors have weight 1 by default, as in Flow-DPO with a constant beta (Liu et al.
    2025, arXiv:2501.13918) and in Flow-GRPO's script `train_sd3_dpo.py`.
    """
    schedule, device = model.schedule, model.device
    noise_BCHW = noise.noise_PCHW.repeat(2, 1, 1, 1).to(device)
    times_B = noise.times_P.repeat(2).to(device)
    noisy_BCHW = schedule.noisy(batch.latents_BCHW, noise_BCHW, times_B)
    target_BCHW = schedule.target(batch.latents_BCHW, noise_BCHW, times_B)
    weight_B = schedule.weight(times_B, min_snr_gamma, loss_space)

    def errors_of(network: nn.Module) -> Tensor:
        # One context for each network: autocast caches rounded weights until the context ends.
        with autocast(device, precision):
            predicted_BCHW = model.predict(network, noisy_BCHW, times_B, batch.conditioning)
        return squared_error(predicted_BCHW, target_BCHW) * weight_B

    with reference() as frozen:
        base_B = errors_of(frozen)
    winner_P, loser_P = errors_of(model.network).chunk(2)
    # A clone of an inference tensor is an ordinary one, which a differentiated expression may contain.
    winner_reference_P, loser_reference_P = base_B.clone().chunk(2)
    return PairErrors(winner_P, loser_P, winner_reference_P, loser_reference_P)


def compute_reward_margin(errors: PairErrors, beta: float) -> Tensor:
    """Return -(beta / 2) [(m_w - m_w^ref) - (m_l - m_l^ref)], float32 (P,): above 0 where the winner is preferred."""
    winner_change_P = errors.winner_P - errors.winner_reference_P
    loser_change_P = errors.loser_P - errors.loser_reference_P
    return -(beta / 2) * (winner_change_P - loser_change_P)


def compute_pair_metrics(loss: Tensor, reward_margin_P: Tensor, errors: PairErrors) -> dict[str, Tensor]:
    """Return the metrics of a method on pairs, all means over the pairs.

    implicit_accuracy is the share of pairs with a positive margin; a tie counts one half, so that an untrained network
    starts at 0.5. The change of the winner's error and that of the loser's are apart, because the margin can also grow
    while both get worse.
    """
    return {
        "loss": loss.detach(),
        "implicit_accuracy": compute_implicit_accuracy(reward_margin_P.detach()),
        "winner_error_change": (errors.winner_P - errors.winner_reference_P).detach().mean(),
        "loser_error_change": (errors.loser_P - errors.loser_reference_P).detach().mean(),
    }


def compute_implicit_accuracy(reward_margin_P: Tensor) -> Tensor:
    """Return the share of margins above 0, ties counting one half."""
    return (torch.sign(reward_margin_P) + 1).mean() / 2
