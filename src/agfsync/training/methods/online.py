"""Drawing and rewarding of images in training, shared by the online methods.

Legend: B images of this process in a step, N images of all processes, S steps of a trajectory, C H W latent channels,
height, width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, nan
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from agfsync.engine.batch_fitting import BatchFit
from agfsync.errors import RecipeError
from agfsync.models.schedules import FlowSchedule, NoiseSchedule
from agfsync.records import derive_seed
from agfsync.training import Conditioning, SamplingModel
from agfsync.training.batches import draw_rows_of_step
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.processes import Processes
from agfsync.training.prompts import PromptData
from agfsync.training.trajectories import GuidedPrediction, Trajectory, sample_trajectory

_OF_IMAGES = ("latents_BCHW", "states_BSCHW", "next_states_BSCHW", "log_probabilities_BS")
"""The tensors of a trajectory that have one row per image; all images share the times and standard deviations."""


class OnlineMethod:
    """A method that draws images of the captions in training and learns from their rewards."""

    needs: ClassVar[Literal["captions"]] = "captions"
    trains: ClassVar[Literal["model"]] = "model"
    kl: float

    @property
    def uses_reference(self) -> bool:
        """True if there is a penalty for the distance to the base: `kl` is above 0."""
        return self.kl > 0


@dataclass(frozen=True, slots=True)
class Sampler:
    """The sampling settings of an online method: `group` images per prompt, in `steps` steps with noise `eta`.

    If `guidance` or `steps` is None, the model's own is used. With a `window`, only that number of consecutive steps
    have noise; they lie in the share `window_within` of the steps (MixGRPO, arXiv:2507.21802).
    """

    group: int
    steps: int | None
    guidance: float | None
    eta: float
    stochastic_step: Literal["sde", "cps"] = "sde"
    window: int | None = None
    window_within: tuple[float, float] = (0.0, 0.5)

    def count_steps(self, model: SamplingModel) -> int:
        """Return the number of sampling steps."""
        return self.steps or model.steps

    def find_schedule(self, model: SamplingModel) -> NoiseSchedule:
        """Return the model's schedule with this sampler's stochastic step.

        Raises:
            RecipeError: `stochastic_step` is for flow models, and the model isn't one.
        """
        if self.stochastic_step == "sde":
            return model.schedule
        if not isinstance(model.schedule, FlowSchedule):
            raise RecipeError("training.method.stochastic_step cps is for models that predict a flow: leave it out")
        return replace(model.schedule, stochastic_step=self.stochastic_step)

    def draw_window(self, steps: int, seed: int) -> range:
        """Return the steps that have noise: all, or a window at a random position that depends on `seed`.

        Raises:
            RecipeError: the window doesn't fit into its share of the steps.
        """
        if self.window is None:
            return range(steps)
        places = list_window_places(self.window, self.window_within, steps)
        if not places:
            raise RecipeError(f"training.method.window {self.window} has no room in its share of {steps} steps")
        first = places[int(torch.randint(len(places), (), generator=torch.Generator().manual_seed(seed)))]
        return range(first, first + self.window)

    def make_prediction(self, actor: Actor) -> GuidedPrediction:
        """Return the guided prediction, for sampling and for training."""
        model = cast(SamplingModel, actor.model)
        return GuidedPrediction(model, model.guidance if self.guidance is None else self.guidance, actor.precision)


@dataclass(frozen=True, slots=True)
class Samples:
    """This process's images of a step, with their trajectories, and the rewards of the images of all processes.

    The images of a prompt are adjacent. `own_B` are the positions of this process's images among all images.
    """

    prompts_B: Tensor
    """rows of the data's prompts, int64"""
    trajectory: Trajectory
    own_B: Tensor
    rewards_N: Tensor
    """float64, NaN where a scorer gave no score"""
    prompts_N: Tensor

    @property
    def own_rewards_B(self) -> Tensor:
        """The rewards of this process's images, float64 (B,), NaN for an image without a reward."""
        return self.rewards_N[self.own_B]


def list_window_places(window: int, within: tuple[float, float], steps: int) -> list[int]:
    """Return the possible first steps of a window of `window` steps within a share of the steps.

    >>> list_window_places(3, (0.0, 0.5), 10)
    [0, 1, 2]
    """
    first, end = ceil(within[0] * steps), floor(within[1] * steps)
    return list(range(first, end - window + 1))


def draw_samples(
    data: PromptData, plan: TrainingPlan, sampler: Sampler, actor: Actor, step: int, rows: Tensor
) -> Samples:
    """Draw and reward the images of step `step` with the current network.

    The prompts depend only on the plan's seed and the step, and an image's noise also on its position in the step, so
    that neither the batch nor the process affects it. `plan.batch // plan.accumulate` images are drawn at a time, fewer
    if memory runs out.
    """
    model = cast(SamplingModel, actor.model)
    prompts_N = draw_rows_of_step(plan.seed, step, plan.batch, len(data)).repeat_interleave(sampler.group)
    own_B = (rows[:, None] * sampler.group + torch.arange(sampler.group)).flatten()
    prediction, steps = sampler.make_prediction(actor), sampler.count_steps(model)
    schedule, noised = sampler.find_schedule(model), sampler.draw_window(steps, derive_seed(plan.seed, "window", step))

    def draw(places: Sequence[int]) -> list[tuple[Trajectory, float]]:
        prompts_B = prompts_N[list(places)]
        prompted = data.make_conditioning(prompts_B, actor.device)
        unprompted = data.make_unprompted(len(places), actor.device)
        seeds = [derive_seed(plan.seed, "sample", step, place) for place in places]
        trajectory = sample_trajectory(
            prediction,
            actor.network,
            prompted,
            unprompted,
            seeds,
            steps,
            sampler.eta,
            schedule=schedule,
            noised=noised,
        )
        images: Any = model.decode_latents(trajectory.latents_BCHW.to(actor.device))
        texts = [data.prompts[row] for row in prompts_B]
        total_B = data.rewards.score(images, texts, [data.questions[row] for row in prompts_B]).total_B
        return list(zip(_split_trajectory(trajectory), total_B.tolist(), strict=True))

    drawn = BatchFit(max(1, plan.batch // plan.accumulate)).over(own_B.tolist(), draw)
    rewards_N = gather_values(actor.processes, [reward for _, reward in drawn], own_B, len(prompts_N))
    return Samples(prompts_N[own_B], _join_trajectories([each for each, _ in drawn]), own_B, rewards_N, prompts_N)


def gather_values(processes: Processes, values: Sequence[float], own_B: Tensor, count: int) -> Tensor:
    """Return the values of all processes, float64 (N,); this process has `values` at `own_B`. NaN stays NaN."""
    found_N, known_N = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    own = torch.tensor(values, dtype=torch.float64)
    found_N[own_B], known_N[own_B] = own.nan_to_num(), own.isfinite().double()
    summed = processes.sum_values([*found_N.tolist(), *known_N.tolist()])
    found_N, known_N = torch.tensor(summed, dtype=torch.float64).chunk(2)
    return torch.where(known_N > 0, found_N, nan)


def weigh_known(values_N: Tensor) -> Tensor:
    """Return weights that make the mean over all rows the mean over the known ones: float32 (N,), 0 where NaN.

    An image without a reward must not count as an image with a reward of 0. It isn't dropped, so that all processes
    have the same number of rows.
    """
    known_N = values_N.isfinite()
    return known_N.float() / known_N.float().mean().clamp(min=1e-12)


def make_reward_metrics(rewards_N: Tensor) -> dict[str, Tensor]:
    """Return the mean reward of a step's images, and the share of images without a reward.

    Raises:
        RecipeError: no image has a reward.
    """
    known_N = rewards_N[rewards_N.isfinite()]
    if not len(known_N):
        raise RecipeError("training.method.reward: no image of a step has a reward: see what its scorers report")
    return {"reward": known_N.mean().float(), "without_reward": torch.tensor(1 - len(known_N) / len(rewards_N))}


def split_groups(own_B: Tensor, group: int, parts: int, seed: int) -> list[Tensor]:
    """Split the images of `own_B` into `parts` batches of positions, int64; a batch has equally many of every prompt.

    The shuffle of a prompt's images depends only on `seed` and the prompt's position, so that the number of processes
    doesn't affect it.

    Raises:
        RecipeError: a group has fewer than `parts` images.
    """
    if group < parts:
        raise RecipeError(f"training.method.updates {parts} is more than the {group} images of training.method.group")
    batches_B = torch.empty(len(own_B), dtype=torch.int64)
    for prompt in own_B.div(group, rounding_mode="floor").unique().tolist():
        order = torch.randperm(group, generator=torch.Generator().manual_seed(derive_seed(seed, prompt)))
        of_prompt_B = own_B.div(group, rounding_mode="floor") == prompt
        batches_B[of_prompt_B] = order[own_B[of_prompt_B] % group] % parts
    return [(batches_B == part).nonzero().flatten() for part in range(parts)]


def join_prompted(data: PromptData, rows_B: Tensor, device: torch.device) -> tuple[Conditioning, Conditioning]:
    """Return the conditioning of the prompts at `rows_B` and of the negative prompt, with the same number of rows."""
    return data.make_conditioning(rows_B, device), data.make_unprompted(len(rows_B), device)


def _split_trajectory(trajectory: Trajectory) -> Iterator[Trajectory]:
    """Yield the trajectory of each image, as a batch of one."""
    for place in range(len(trajectory.latents_BCHW)):
        yield replace(trajectory, **{name: getattr(trajectory, name)[place : place + 1] for name in _OF_IMAGES})


def _join_trajectories(parts: Sequence[Trajectory]) -> Trajectory:
    return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in _OF_IMAGES})
