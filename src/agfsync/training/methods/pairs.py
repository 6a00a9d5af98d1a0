"""The objective on preference pairs, shared by the methods on pairs; each method defines its loss.

The likelihood of an image under a diffusion model is intractable. Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908)
bounds it: the log-ratio of an image under the trained network and the reference becomes -(m - m^ref) / 2 times a weight
that is part of beta, where m is the squared error of the prediction.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from agfsync.models.schedules import LossSpace
from agfsync.training import DiffusionModel, Reference
from agfsync.training.batches import EncodedPairs, LatentBatch, draw_dropped_rows, draw_rows_of_step
from agfsync.training.noising import PairNoise, average_squares, draw_pair_noise
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.precision import autocast


@dataclass(frozen=True, slots=True)
class PairErrors:
    """The mean squared errors of a batch of pairs, each float32 (P,): the trained network's and the reference's.

    They are weighted by `NoiseSchedule.weight` at the time that the four errors of a pair share. `product_P` is the
    mean of the elementwise product of the winner's and the loser's error, with the same weight and without a gradient.
    `margin_P` is `EncodedPairs.margin_P` of the pairs. Without a reference, its errors are None.
    """

    winner_P: Tensor
    loser_P: Tensor
    winner_reference_P: Tensor | None = None
    loser_reference_P: Tensor | None = None
    product_P: Tensor | None = None
    margin_P: Tensor | None = None


_CPU = torch.device("cpu")
_BETA_DECAY = 0.9
"""The decay of the average margin that sets an automatic beta."""


@dataclass(frozen=True, kw_only=True)
class PairMethod(ABC):
    """A method on pairs; a subclass defines `compare(errors, beta)`.

    `sft_weight` times the winner's error is added to the loss, which keeps DPO from raising the errors of both images.
    With `auto_beta`, in 0..0.5, beta falls as the margins grow, so that a pair with an average margin keeps this share
    of its gradient; `beta` is then the largest value.
    """

    beta: float = field(kw_only=False)
    sft_weight: float = 0.0
    auto_beta: float | None = None

    needs: ClassVar[Literal["pairs"]] = "pairs"
    trains: ClassVar[Literal["model"]] = "model"
    uses_reference: ClassVar[bool] = True
    curves: ClassVar[Sequence[str]] = ("loss", "implicit_accuracy", "winner_error_change", "loser_error_change")

    @abstractmethod
    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, Metrics]:
        """Return the loss, a scalar that is a mean over the pairs, and the metrics to log, `curves`."""
        ...

    def loss(self, errors: PairErrors, beta: float | None = None) -> tuple[Tensor, Metrics]:
        """Return the loss with the terms of the method's options, for `beta`, by default the method's own."""
        loss, metrics = self.compare(errors, self.beta if beta is None else beta)
        if self.sft_weight:
            loss = loss + self.sft_weight * errors.winner_P.mean()
            metrics = {**metrics, "loss": loss.detach()}
        return loss, metrics

    def objective(self, data: EncodedPairs, plan: TrainingPlan) -> "PairObjective":
        return PairObjective(self, data, plan)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs of a step, with their noise."""

    pairs: EncodedPairs
    rows_P: Tensor
    """rows of `pairs`, int64"""
    noise: PairNoise
    dropped_P: Tensor | None
    """bool (P,): pairs that are trained with the empty prompt"""
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.rows_P)

    def part(self, rows: Tensor, device: torch.device) -> "PairBatch":
        dropped_P = None if self.dropped_P is None else self.dropped_P[rows]
        return PairBatch(self.pairs, self.rows_P[rows], self.noise.select(rows), dropped_P, device)

    @property
    def tensors(self) -> LatentBatch:
        """The clean latents and the conditioning on `device`, first of the winners, then of the losers."""
        return self.pairs.make_batch(self.rows_P, self.device, self.dropped_P)


@dataclass(frozen=True, slots=True)
class PairObjective:
    """The objective of all methods on pairs: draw pairs, with a noise and a time for each, and compare their errors."""

    method: PairMethod
    pairs: EncodedPairs
    plan: TrainingPlan
    memory: dict[str, Tensor] = field(default_factory=lambda: {"margin": torch.zeros(())})
    """the average size of the pairs' margins, 0 before the first step"""

    def __len__(self) -> int:
        return len(self.pairs)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[PairBatch]:
        plan, model = self.plan, cast(DiffusionModel, actor.model)
        rows_P = draw_rows_of_step(plan.seed, step, plan.batch, len(self.pairs))
        shape = torch.Size([plan.batch, *self.pairs.latents_ICHW.shape[1:]])
        noise = draw_pair_noise(plan.seed, step, shape, model.schedule)
        if plan.noise == "tracked" and self.pairs.noise_ICHW is not None:
            of_winner, of_loser = (
                self.pairs.noise_ICHW[images[rows_P]] for images in (self.pairs.winner_P, self.pairs.loser_P)
            )
            noise = PairNoise(of_winner, noise.times_P, of_loser)
        dropped_P = draw_dropped_rows(plan.seed, step, plan.batch, plan.caption_dropout)
        return [PairBatch(self.pairs, rows_P, noise, dropped_P).part(rows, _CPU)]

    def loss(self, actor: Actor, batch: PairBatch) -> tuple[Tensor, Metrics]:
        model = cast(DiffusionModel, actor.model)
        plan, reference = self.plan, actor.reference if self.method.uses_reference else None
        if self.method.uses_reference and reference is None:
            raise ValueError("this method on pairs needs a reference")
        options = (actor.precision, plan.min_snr_gamma, plan.loss_space)
        errors = compute_pair_errors(model, reference, batch.tensors, batch.noise, *options)
        if self.pairs.margin_P is not None:
            errors = replace(errors, margin_P=self.pairs.margin_P[batch.rows_P].to(errors.winner_P.device))
        share, margin = self.method.auto_beta, float(self.memory["margin"])
        beta = None if share is None else choose_beta(margin, share, self.method.beta)
        loss, metrics = self.method.loss(errors, beta)
        if beta is not None:
            size = compute_reward_margin(errors, 2.0).detach().abs().mean()
            metrics = {**metrics, "beta": torch.tensor(beta), "margin_size": size}
        return loss, metrics

    def prepare(self, actor: Actor) -> None:
        """Do nothing: the memory doesn't depend on the model."""

    def observe(self, figures: Mapping[str, float]) -> None:
        if "margin_size" in figures:
            average, size = self.memory["margin"], figures["margin_size"]
            average.fill_(size if average == 0 else _BETA_DECAY * float(average) + (1 - _BETA_DECAY) * size)


def choose_beta(margin: float, share: float, largest: float) -> float:
    """Return the beta for which a pair of this margin keeps `share` of its gradient: sigmoid(-beta / 2 margin) = share.

    `margin` is the average absolute value of (m_w - m_w^ref) - (m_l - m_l^ref); the beta is at most `largest`.

    >>> choose_beta(0.01, 0.2, 5000.0)
    277.25887222397813
    """
    wanted = 2 * log((1 - share) / share)
    return min(largest, wanted / margin) if margin > 0 else largest


def compute_pair_errors(
    model: DiffusionModel,
    reference: Reference | None,
    batch: LatentBatch,
    noise: PairNoise,
    precision: str = "fp32",
    min_snr_gamma: float | None = None,
    loss_space: LossSpace = "model",
) -> PairErrors:
    """Return the errors of each pair. Winners and losers are one batch, with the times and the noise of `noise`.

    They are the errors of the network's prediction times `NoiseSchedule.weight`. The prediction is the noise
    (Diffusion-DPO), v, or a flow's velocity. The errors of the velocity have weight 1 by default, as in Flow-DPO with a
    constant beta (Liu et al. 2025, arXiv:2501.13918) and in Flow-GRPO's script `train_sd3_dpo.py`.
    """
    schedule, device = model.schedule, model.device
    noise_BCHW, times_B = noise.noise_BCHW.to(device), noise.times_P.repeat(2).to(device)
    noisy_BCHW = schedule.noisy(batch.latents_BCHW, noise_BCHW, times_B)
    target_BCHW = schedule.target(batch.latents_BCHW, noise_BCHW, times_B)
    weight_B = schedule.weight(times_B, min_snr_gamma, loss_space)

    def subtract_target(network: nn.Module) -> Tensor:
        # One context for each network: autocast caches rounded weights until the context ends.
        with autocast(device, precision):
            predicted_BCHW = model.predict(network, noisy_BCHW, times_B, batch.conditioning)
        return predicted_BCHW.float() - target_BCHW.float()

    base: Sequence[Tensor | None] = (None, None)
    if reference is not None:
        with reference() as frozen:
            base_B = average_squares(subtract_target(frozen)) * weight_B
        # Autograd can't use an inference tensor; its clone is an ordinary tensor.
        base = base_B.clone().chunk(2)
    error_BCHW = subtract_target(model.network)
    winner_P, loser_P = (average_squares(error_BCHW) * weight_B).chunk(2)
    of_winner_PCHW, of_loser_PCHW = error_BCHW.detach().chunk(2)
    product_P = (of_winner_PCHW * of_loser_PCHW).mean(dim=(1, 2, 3)) * weight_B[: len(winner_P)]
    return PairErrors(winner_P, loser_P, base[0], base[1], product_P)


def compute_reward_margin(errors: PairErrors, beta: float | Tensor) -> Tensor:
    """Return -(beta / 2) [(m_w - m_w^ref) - (m_l - m_l^ref)], float32 (P,): above 0 where the winner is preferred."""
    winner_change_P, loser_change_P = compute_error_changes(errors)
    return -(beta / 2) * (winner_change_P - loser_change_P)


def compute_error_changes(errors: PairErrors) -> tuple[Tensor, Tensor]:
    """Return m_w - m_w^ref and m_l - m_l^ref, each float32 (P,)."""
    if errors.winner_reference_P is None or errors.loser_reference_P is None:
        raise ValueError("these errors have no reference's next to them")
    return errors.winner_P - errors.winner_reference_P, errors.loser_P - errors.loser_reference_P


def compute_pair_metrics(loss: Tensor, reward_margin_P: Tensor, errors: PairErrors) -> dict[str, Tensor]:
    """Return the metrics of a method on pairs, all of them means over the pairs.

    implicit_accuracy is the share of pairs with a positive margin; a tie counts one half, so that an untrained network
    starts at 0.5. The changes of the winner's and the loser's error are separate metrics, because the margin can also
    grow while both get worse.
    """
    winner_change_P, loser_change_P = compute_error_changes(errors)
    return {
        "loss": loss.detach(),
        "implicit_accuracy": compute_implicit_accuracy(reward_margin_P.detach()),
        "winner_error_change": winner_change_P.detach().mean(),
        "loser_error_change": loser_change_P.detach().mean(),
    }


def compute_implicit_accuracy(reward_margin_P: Tensor) -> Tensor:
    """Return the share of margins above 0; a tie counts one half."""
    return (torch.sign(reward_margin_P) + 1).mean() / 2
