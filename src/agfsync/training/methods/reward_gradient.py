"""The method `reward-gradient`: follow the gradient of the judges' rewards through the image into the network.

An image is sampled without a gradient up to a late step. The next steps, one or several, record a gradient. The clean
latents that the last of them predicts are decoded and judged by differentiable scorers, and the loss is backpropagated
through the scorers, the VAE and these steps.

ReFL (Xu et al. 2023, arXiv:2304.05977, algorithm 1) trains one random late step, without guidance, and ignores images
with a high enough reward. DRaFT-K (Clark et al. 2024, arXiv:2309.17400) backpropagates through the last K steps of the
full sampling. DRaFT+ (NVIDIA NeMo-Aligner) uses guidance, and adds a penalty for the distance to the base.

Legend: B captions in the batch, C H W latent channels, height, width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from agfsync.records import derive_seed
from agfsync.scorers import DifferentiableScorer
from agfsync.training import DifferentiableModel
from agfsync.training.batches import draw_rows_of_step
from agfsync.training.methods.online import OnlineMethod
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.trajectories import GuidedPrediction
from agfsync.training.truncated import (
    PredictedStep,
    TimedPrediction,
    draft_loss,
    draw_truncated,
    measure_divergence,
    refl_loss,
    weigh_rewards,
)

MIDDLE, QUARTER = 50.0, 25.0
"""The default mean and deviation of a score in ReFL: near r = 0, 50 + 25 r is imagereward's score 100 sigmoid(r)."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RewardGradient(OnlineMethod):
    """The method `reward-gradient`; `RewardGradientSettings` explains its settings."""

    reward: Mapping[str, float]
    loss: Literal["refl", "draft"]
    steps: int
    guidance: float
    scale: float
    kl: float
    window: tuple[float, float] | None = None
    margin: float | None = None
    last: int | None = None
    standard: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    curves: ClassVar[Sequence[str]] = ("loss", "reward", "reference_divergence")

    def objective(self, data: PromptData, plan: TrainingPlan) -> "RewardGradientObjective":
        return RewardGradientObjective(self, data, plan)

    def draw_steps(self, source: torch.Generator) -> tuple[int, int]:
        """Return the first and the last step with a gradient, counted from 0; ReFL draws a single step per batch."""
        if self.loss == "draft":
            assert self.last is not None
            return self.steps - self.last, self.steps - 1
        assert self.window is not None
        inside = list_window(self.window, self.steps)
        drawn = inside[int(torch.randint(len(inside), (), generator=source))]
        return drawn, drawn

    def compute_loss(self, rewards_B: Tensor) -> Tensor:
        """Return the loss of standardised rewards, a scalar."""
        if self.loss == "draft":
            return draft_loss(rewards_B, self.scale)
        assert self.margin is not None
        return refl_loss(rewards_B, self.margin, self.scale)

    def standardise(self, name: str, scorer: DifferentiableScorer, values_B: Tensor) -> Tensor:
        """Return a scorer's values, standardised: minus a mean, over a deviation.

        These are the setting's if there is one; else the scorer's own, if it was trained to give standardised rewards;
        else, in ReFL, the middle and a quarter of the scale. DRaFT otherwise uses the values as they are.
        """
        if name in self.standard:
            mean, deviation = self.standard[name]
            return (values_B - mean) / deviation
        own: Callable[[Tensor], Tensor] | None = getattr(scorer, "standardise", None)
        if own is not None:
            return own(values_B)
        return values_B if self.loss == "draft" else (values_B - MIDDLE) / QUARTER


def list_window(window: tuple[float, float], steps: int) -> list[int]:
    """Return the steps, counted from 0, that end within the share (from, to] of the sampling.

    >>> list_window((0.75, 1), 8)
    [6, 7]
    """
    return [step for step in range(steps) if window[0] < (step + 1) / steps <= window[1]]


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """The captions of a step, as int64 rows (B,), with the noise of their images and the steps with a gradient."""

    rows_B: Tensor
    noise_BCHW: Tensor
    first: int
    last: int
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.rows_B)

    def part(self, rows: Tensor, device: torch.device) -> "CaptionBatch":
        return CaptionBatch(self.rows_B[rows], self.noise_BCHW[rows], self.first, self.last, device)


@dataclass(frozen=True, slots=True)
class RewardGradientObjective:
    """The objective on captions: sample an image for each, judge it, and backpropagate through its last steps."""

    method: RewardGradient
    data: PromptData
    plan: TrainingPlan

    def __len__(self) -> int:
        return len(self.data)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[CaptionBatch]:
        plan, model = self.plan, _as_differentiable(actor.model)
        source = torch.Generator().manual_seed(derive_seed(plan.seed, "noise", step))
        noise_BCHW = torch.randn(plan.batch, *model.latent_shape, generator=source)
        rows_B = draw_rows_of_step(plan.seed, step, plan.batch, len(self))
        return [CaptionBatch(rows_B, noise_BCHW, *self.method.draw_steps(source)).part(rows, _CPU)]

    def loss(self, actor: Actor, batch: CaptionBatch) -> tuple[Tensor, Metrics]:
        method, model = self.method, _as_differentiable(actor.model)
        grid = model.schedule.grid(method.steps).to(batch.device)
        predict = self._predict_under_guidance(actor, model.network, batch)
        noise_BCHW = batch.noise_BCHW.to(batch.device)
        sample = draw_truncated(model.schedule, predict, noise_BCHW, grid, batch.first, batch.last)
        values = self._judge(model.decode_pixels(sample.clean_BCHW), batch)
        rewards_B = weigh_rewards(values, method.reward)
        loss = method.compute_loss(rewards_B)
        divergence = torch.zeros((), device=batch.device)
        if method.kl:
            divergence = measure_divergence(
                [step.predicted_BCHW for step in sample.steps], self._predict_reference(actor, sample.steps, batch)
            )
            loss = loss + method.kl * divergence
        metrics = {"loss": loss, "reward": rewards_B.mean(), "reference_divergence": divergence}
        metrics |= {f"reward_{name}": values_B.mean() for name, values_B in values.items()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _predict_under_guidance(self, actor: Actor, network: nn.Module, batch: CaptionBatch) -> TimedPrediction:
        """Return the guided prediction of `network` for the batch's captions, with a gradient through both halves."""
        guided = GuidedPrediction(_as_differentiable(actor.model), self.method.guidance, actor.precision)
        prompted = self.data.make_conditioning(batch.rows_B, batch.device)
        unprompted = self.data.make_unprompted(len(batch), batch.device)
        return lambda noisy_BCHW, times_B: guided.predict(network, noisy_BCHW, times_B, prompted, unprompted)

    def _predict_reference(self, actor: Actor, steps: Sequence[PredictedStep], batch: CaptionBatch) -> list[Tensor]:
        """Return the base's predictions at the latents that the trained network has sampled."""
        if actor.reference is None:
            raise ValueError("a penalty for leaving the base needs a reference")
        with actor.reference() as frozen:
            predict = self._predict_under_guidance(actor, frozen, batch)
            found = [predict(step.noisy_BCHW.detach(), step.times_B) for step in steps]
        # Autograd can't use an inference tensor; its clone is an ordinary tensor.
        return [predicted_BCHW.clone() for predicted_BCHW in found]

    def _judge(self, pixels_BCHW: Tensor, batch: CaptionBatch) -> dict[str, Tensor]:
        """Return the standardised rewards of the images by scorer, each float32 (B,)."""
        prompts = [self.data.prompts[row] for row in batch.rows_B.tolist()]
        found: dict[str, Tensor] = {}
        for name in self.method.reward:
            scorer: Any = self.data.rewards.find_scorer(name)
            found[name] = self.method.standardise(name, scorer, scorer.rewards(pixels_BCHW, prompts))
        return found


def _as_differentiable(model: Any) -> DifferentiableModel:
    differentiable: DifferentiableModel = model
    return differentiable
