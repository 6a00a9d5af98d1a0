"""The objective on scored candidates, shared by the supervised methods and KTO; each defines its ratings and its loss.

Legend: B images in the batch, C H W latent channels, height, width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from agfsync.choices import CandidateScores
from agfsync.training import DiffusionModel
from agfsync.training.batches import RatedImages, draw_dropped_rows, draw_rows_of_step
from agfsync.training.noising import draw_pair_noise, squared_error
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.precision import autocast

Ratings = Mapping[str, float]
"""Key of a candidate -> its rating, for the candidates of a caption that are trained on."""


@dataclass(frozen=True, slots=True)
class RatedErrors:
    """The mean squared errors of a batch of images, float32 (B,), and their ratings.

    `reference_B` is the errors of the reference, and `reference_point` is KTO's; both are None without a reference.
    """

    error_B: Tensor
    rating_B: Tensor
    reference_B: Tensor | None = None
    reference_point: float | None = None


class RatedMethod(ABC):
    """A method on scored candidates; a subclass defines `rate` and `compute_loss`."""

    needs: ClassVar[Literal["scores"]] = "scores"
    trains: ClassVar[Literal["model"]] = "model"
    uses_reference: ClassVar[bool] = False
    curves: ClassVar[Sequence[str]] = ("loss",)

    @abstractmethod
    def rate(self, values: Mapping[str, CandidateScores]) -> Ratings:
        """Return the ratings of a caption's candidates; candidates without a rating aren't trained on.

        Args:
            values: the scores of each candidate, by its key, in the order of drawing.
        """
        ...

    @abstractmethod
    def compute_loss(self, errors: RatedErrors) -> tuple[Tensor, Metrics]:
        """Return the loss, a scalar that is a mean over the images, and the metrics to log, `curves`."""
        ...

    def objective(self, data: RatedImages, plan: TrainingPlan) -> "RatedObjective":
        return RatedObjective(self, data, plan)


@dataclass(frozen=True, slots=True)
class RatedBatch:
    """The images of a step, as int64 rows (B,), each with a noise and a time."""

    images: RatedImages
    rows_B: Tensor
    noise_BCHW: Tensor
    times_B: Tensor
    dropped_B: Tensor | None
    reference_point: float | None = None

    def __len__(self) -> int:
        return len(self.rows_B)

    def part(self, rows: Tensor, device: torch.device) -> "RatedBatch":
        dropped_B = None if self.dropped_B is None else self.dropped_B[rows]
        of = (self.rows_B[rows], self.noise_BCHW[rows].to(device), self.times_B[rows].to(device))
        return RatedBatch(self.images, *of, dropped_B, self.reference_point)


@dataclass(frozen=True, slots=True)
class RatedObjective:
    """The objective of all methods on scored candidates: draw images, each with a noise and a time."""

    method: RatedMethod
    images: RatedImages
    plan: TrainingPlan

    def __len__(self) -> int:
        return len(self.images)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[RatedBatch]:
        plan, model = self.plan, cast(DiffusionModel, actor.model)
        rows_B = draw_rows_of_step(plan.seed, step, plan.batch, len(self.images))
        shape = torch.Size([plan.batch, *self.images.latents_ICHW.shape[1:]])
        noise = draw_pair_noise(plan.seed, step, shape, model.schedule)
        noise_BCHW = noise.noise_PCHW
        if plan.noise == "tracked" and self.images.noise_ICHW is not None:
            noise_BCHW = self.images.noise_ICHW[rows_B]
        dropped_B = draw_dropped_rows(plan.seed, step, plan.batch, plan.caption_dropout)
        batch = RatedBatch(self.images, rows_B, noise_BCHW, noise.times_P, dropped_B).part(rows, torch.device("cpu"))
        return [replace(batch, reference_point=self._find_reference_point(actor, batch))]

    def loss(self, actor: Actor, batch: RatedBatch) -> tuple[Tensor, Metrics]:
        error_B = self._compute_errors(actor, actor.network, batch)
        reference_B = None
        if self.method.uses_reference:
            if actor.reference is None:
                raise ValueError("this method needs a reference")
            with actor.reference() as frozen:
                reference_B = self._compute_errors(actor, frozen, batch)
            reference_B = reference_B.clone()
        rating_B = self.images.rating_I[batch.rows_B].to(error_B.device)
        return self.method.compute_loss(RatedErrors(error_B, rating_B, reference_B, batch.reference_point))

    def _find_reference_point(self, actor: Actor, batch: RatedBatch) -> float | None:
        """Return max(0, mean of m^ref - m) over the images of all processes in the step; None without a reference."""
        if actor.reference is None or not self.method.uses_reference:
            return None
        total = 0.0
        for rows in torch.arange(len(batch)).split(max(1, self.plan.batch // self.plan.accumulate)):
            part = batch.part(rows, actor.device)
            with torch.no_grad():
                ours_B = self._compute_errors(actor, actor.network, part)
            with actor.reference() as frozen:
                theirs_B = self._compute_errors(actor, frozen, part)
            total += float((theirs_B - ours_B).sum())
        total, size = actor.processes.sum_values([total, len(batch)])
        return max(0.0, total / size)

    def _compute_errors(self, actor: Actor, network: nn.Module, batch: RatedBatch) -> Tensor:
        model, device = cast(DiffusionModel, actor.model), actor.device
        schedule, noise_BCHW, times_B = model.schedule, batch.noise_BCHW.to(device), batch.times_B.to(device)
        clean = self.images.make_batch(batch.rows_B, device, batch.dropped_B)
        noisy_BCHW = schedule.noisy(clean.latents_BCHW, noise_BCHW, times_B)
        with autocast(device, actor.precision):
            predicted_BCHW = model.predict(network, noisy_BCHW, times_B, clean.conditioning)
        target_BCHW = schedule.target(clean.latents_BCHW, noise_BCHW, times_B)
        weight_B = schedule.weight(times_B, self.plan.min_snr_gamma, self.plan.loss_space)
        return squared_error(predicted_BCHW, target_BCHW) * weight_B
