"""Online methods that need only clean images and their rewards: DiffusionNFT and AWM.

Any sampler can draw the images, no trajectory is kept, and a training step costs the same as in fine-tuning.

Legend: B images of this process, C H W latent channels, height, width.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from agfsync.models.schedules import NoiseSchedule
from agfsync.records import derive_seed
from agfsync.training import SamplingModel
from agfsync.training.methods.online import (
    OnlineMethod,
    Sampler,
    draw_samples,
    join_prompted,
    make_reward_metrics,
    split_groups,
    weigh_known,
)
from agfsync.training.noising import draw_pair_noise, squared_error
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.rewards import standardise_rewards
from agfsync.training.trajectories import GuidedPrediction

OLD = "old."
"""The prefix of the names of the sampling network's weights in the objective's memory."""


@dataclass(frozen=True, kw_only=True)
class CleanImageMethod(OnlineMethod):
    """A method that draws images without noise in the steps, noises them again, and weights their errors by rewards.

    The network draws and is trained with the same `guidance`. The gradient goes through both halves of the guidance: if
    only the prediction with the prompt were trained, guidance would multiply its change in sampling. Each image is
    noised `noisings` times, by default once per sampling step, as in the published code of DiffusionNFT: drawing an
    image costs many times as much as training on one noising of it, and the gradient of one noising is mostly noise.
    """

    reward: Mapping[str, float]
    group: int = 8
    steps: int | None = None
    guidance: float = 1.0
    noisings: int | None = None
    advantage_limit: float = 5.0
    kl: float = 1e-4
    updates: int = 1

    curves: ClassVar[Sequence[str]] = ("reward", "loss", "kl", "without_reward")
    keeps_old: ClassVar[bool] = False
    """True if an average of the network draws the images; the objective's memory then holds its weights"""

    @property
    def sampler(self) -> Sampler:
        """The settings with which it draws."""
        return Sampler(self.group, self.steps, self.guidance, 0.0)

    def find_decay(self, updates: int) -> float:
        """Return the weight of the old network in the average after `updates` updates."""
        return 0.0

    @abstractmethod
    def compute_errors(
        self, schedule: NoiseSchedule, batch: "CleanBatch", noisy_BCHW: Tensor, predicted_BCHW: Tensor
    ) -> Tensor:
        """Return the loss of each image, float32 (B,), without the penalty for the distance to the base."""
        ...

    def objective(self, data: PromptData, plan: TrainingPlan) -> "CleanImageObjective":
        return CleanImageObjective(self, data, plan)


@dataclass(frozen=True, slots=True)
class CleanBatch:
    """Drawn images, each with a noise and a time, and the sampling network's predictions for them.

    An image has one row per noising; the rows of an image are adjacent.
    """

    prompts_B: Tensor
    clean_BCHW: Tensor
    noise_BCHW: Tensor
    times_B: Tensor
    old_BCHW: Tensor
    advantages_B: Tensor
    weights_B: Tensor
    """the weights of the images: 0 without a reward; the mean over all images is 1"""
    metrics: Metrics

    def __len__(self) -> int:
        return len(self.prompts_B)

    def part(self, rows: Tensor, device: torch.device) -> "CleanBatch":
        names = ("clean_BCHW", "noise_BCHW", "times_B", "old_BCHW", "advantages_B", "weights_B")
        moved = {name: getattr(self, name)[rows].to(device) for name in names}
        return replace(self, prompts_B=self.prompts_B[rows], **moved)


@dataclass(frozen=True, slots=True)
class CleanImageObjective:
    """The objective of `nft` and `awm`. Its memory is the weights of the sampling network, if this is an average."""

    method: CleanImageMethod
    data: PromptData
    plan: TrainingPlan
    memory: dict[str, Tensor] = field(default_factory=dict)
    trained: dict[str, nn.Parameter] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.data)

    def prepare(self, actor: Actor) -> None:
        """Copy the trained weights of the network, which draws the first images."""
        if self.method.keeps_old and not self.trained:
            self.trained.update({name: p for name, p in actor.network.named_parameters() if p.requires_grad})
            self.memory.update({OLD + name: p.detach().clone() for name, p in self.trained.items()})
            self.memory["updates"] = torch.zeros(())

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[CleanBatch]:
        method, plan = self.method, self.plan
        with self._use_old_network(actor):
            samples = draw_samples(self.data, plan, method.sampler, actor, step, rows)
            advantages_N = standardise_rewards(samples.rewards_N, samples.prompts_N).nan_to_num()
            advantages_N = advantages_N.clamp(-method.advantage_limit, method.advantage_limit)
            weights_N, metrics = weigh_known(samples.rewards_N), make_reward_metrics(samples.rewards_N)
            model = cast(SamplingModel, actor.model)
            times = method.noisings or method.sampler.count_steps(model)
            clean_BCHW = samples.trajectory.latents_BCHW.repeat_interleave(times, dim=0)
            rows_B = expand_rows(samples.own_B, times)
            shape = torch.Size([len(samples.rewards_N) * times, *clean_BCHW.shape[1:]])
            noise = draw_pair_noise(plan.seed, step, shape, model.schedule).select(rows_B)
            batch = CleanBatch(
                samples.prompts_B.repeat_interleave(times),
                clean_BCHW,
                noise.noise_PCHW,
                noise.times_P,
                torch.zeros_like(clean_BCHW),
                advantages_N.repeat_interleave(times)[rows_B].float(),
                weights_N.repeat_interleave(times)[rows_B],
                metrics,
            )
            batch = replace(batch, old_BCHW=self._predict_old(actor, batch))
        order = derive_seed(plan.seed, "update", step)
        groups = split_groups(samples.own_B, method.group, method.updates, order)
        return [batch.part(expand_rows(images, times), torch.device("cpu")) for images in groups]

    def loss(self, actor: Actor, batch: CleanBatch) -> tuple[Tensor, Metrics]:
        schedule = cast(SamplingModel, actor.model).schedule
        noisy_BCHW = schedule.noisy(batch.clean_BCHW, batch.noise_BCHW, batch.times_B)
        predicted_BCHW = self._predict(actor, actor.network, batch, noisy_BCHW)
        error_B = self.method.compute_errors(schedule, batch, noisy_BCHW, predicted_BCHW)
        kl_B = torch.zeros_like(error_B)
        if self.method.kl > 0:
            if actor.reference is None:
                raise ValueError("training.method.kl needs a reference")
            with actor.reference() as frozen:
                base_BCHW = self._predict(actor, frozen, batch, noisy_BCHW)
            kl_B = squared_error(predicted_BCHW, base_BCHW.clone())
        loss = (batch.weights_B * (error_B + self.method.kl * kl_B)).mean()
        return loss, {"loss": loss.detach(), "kl": kl_B.detach().mean(), **batch.metrics}

    @torch.no_grad()
    def observe(self, figures: Mapping[str, float]) -> None:
        """Update the sampling network, an average of the trained one."""
        if self.method.keeps_old:
            self.memory["updates"].add_(1)
            decay = self.method.find_decay(int(self.memory["updates"]))
            for name, parameter in self.trained.items():
                self.memory[OLD + name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def _use_old_network(self, actor: Actor) -> Iterator[None]:
        """Use the weights of the sampling network within the context."""
        if not self.method.keeps_old:
            yield
            return
        ours = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.memory[OLD + name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(ours[name])

    @torch.no_grad()
    def _predict_old(self, actor: Actor, batch: CleanBatch) -> Tensor:
        """Return the predictions of the network that drew the images, (B, C, H, W) on the CPU."""
        schedule, found = cast(SamplingModel, actor.model).schedule, []
        for rows in torch.arange(len(batch)).split(max(1, self.plan.batch // self.plan.accumulate)):
            part = batch.part(rows, actor.device)
            noisy_BCHW = schedule.noisy(part.clean_BCHW, part.noise_BCHW, part.times_B)
            found.append(self._predict(actor, actor.network, part, noisy_BCHW).cpu())
        return torch.cat(found)

    def _predict(self, actor: Actor, network: nn.Module, batch: CleanBatch, noisy_BCHW: Tensor) -> Tensor:
        prediction = GuidedPrediction(cast(Any, actor.model), self.method.guidance, actor.precision)
        return prediction.predict(
            network, noisy_BCHW, batch.times_B, *join_prompted(self.data, batch.prompts_B, actor.device)
        )


def expand_rows(images_B: Tensor, times: int) -> Tensor:
    """Return the rows of the images at `images_B`, `times` rows per image: int64 (B * times,).

    >>> expand_rows(torch.tensor([0, 2]), 2)
    tensor([0, 1, 4, 5])
    """
    return (images_B[:, None] * times + torch.arange(times)).flatten()
