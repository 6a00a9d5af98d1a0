"""Policy gradients on the sampling steps: DDPO, DPOK, PPO and Flow-GRPO in one objective.

Each stochastic sampling step is an action of the network with a known log-probability.

Legend: R rows of a batch, each one step of one image; B images; S steps; N images of all processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from agfsync.errors import RecipeError
from agfsync.records import derive_seed
from agfsync.training import SamplingModel
from agfsync.training.methods.online import (
    OnlineMethod,
    Sampler,
    Samples,
    draw_samples,
    join_prompted,
    make_reward_metrics,
    split_groups,
    weigh_known,
)
from agfsync.training.methods.value import ValueNetwork
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.rewards import standardise_rewards
from agfsync.training.trajectories import GuidedPrediction, compute_log_probability

_CPU = torch.device("cpu")
PolicyLoss = Literal["ddpo", "dpok", "ppo", "grpo"]


@dataclass(frozen=True)
class PolicyGradient(OnlineMethod):
    """The method `policy-gradient`: make the steps that led to images with a high reward more likely.

    `loss` determines the advantages, and the distance to the base that `kl` penalises:

    - `ddpo` (Black et al. 2023, arXiv:2305.13301): the reward, standardised by the prompt's last `buffer` rewards if
      there are at least `buffer_minimum`, else by the step's rewards.
    - `ppo`: the reward, standardised by the step's rewards, as VisionPrefer trains with its reward model.
    - `grpo` (Flow-GRPO, Liu et al. 2025, arXiv:2505.05470): the reward minus the mean of the prompt's group, over the
      standard deviation of the step's rewards.
    - `dpok` (Fan et al. 2023, arXiv:2305.16381): the reward minus a learned value of each state. The reward is first
      standardised by the rewards of the first step, so that the value starts near 0; DPOK's ImageReward is standardised
      by constants.

    `kl` is the weight of the distance to the base: between the guided predictions for `dpok`, as in its code, else
    between the means of the steps in units of their variance. The gradient goes through both halves of the guidance.

    With `step_weights` "variance", the weight of a step is the variance of its noise, scaled to a mean of 1. The
    gradient of a step's log-probability grows with 1 / std, but the step's effect on the image grows with std: of 10
    DDIM steps, the last one with noise has 95 % of the summed squared gradients, and nearly no effect on the image.
    "equal" is as published for DDIM, where this step has half of the sum with 50 steps. The published code of CPS
    leaves the variance out of the log-probability, which amounts to "variance".
    """

    reward: Mapping[str, float]
    loss: PolicyLoss = "ddpo"
    group: int = 8
    steps: int | None = None
    guidance: float | None = None
    eta: float = 1.0
    stochastic_step: Literal["sde", "cps"] = "sde"
    window: int | None = None
    window_within: tuple[float, float] = (0.0, 0.5)
    timesteps: float = 1.0
    step_weights: Literal["variance", "equal"] = "variance"
    clip: float = 1e-4
    advantage_limit: float = 5.0
    kl: float = 0.0
    updates: int = 1
    epochs: int = 1
    buffer: int = 32
    buffer_minimum: int = 16
    value_learning_rate: float = 1e-4
    value_updates: int = 1

    curves: ClassVar[Sequence[str]] = ("reward", "loss", "ratio_change", "clipped", "kl", "without_reward")

    @property
    def sampler(self) -> Sampler:
        """The settings with which it draws."""
        window = (self.window, self.window_within)
        return Sampler(self.group, self.steps, self.guidance, self.eta, self.stochastic_step, *window)

    def objective(self, data: PromptData, plan: TrainingPlan) -> "PolicyObjective":
        return PolicyObjective(self, data, plan)


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """Sampling steps of images: the states before and after each, with its times, log-probability and advantage."""

    data: PromptData
    prompts_R: Tensor
    states_RCHW: Tensor
    next_states_RCHW: Tensor
    times_R: Tensor
    next_times_R: Tensor
    log_probabilities_R: Tensor
    """under the network that drew the images"""
    advantages_R: Tensor
    weights_R: Tensor
    """the step's weight, or 0 for an image without a reward; the mean over all images and steps is 1"""
    metrics: Metrics
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.prompts_R)

    def part(self, rows: Tensor, device: torch.device) -> "PolicyBatch":
        names = ("states_RCHW", "next_states_RCHW", "times_R", "next_times_R", "log_probabilities_R")
        moved = {n: getattr(self, n)[rows].to(device) for n in (*names, "advantages_R", "weights_R")}
        return replace(self, prompts_R=self.prompts_R[rows], device=device, **moved)


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """The objective of `policy-gradient`. Its memory is each prompt's rewards (DDPO) or the value network (DPOK)."""

    method: PolicyGradient
    data: PromptData
    plan: TrainingPlan
    memory: dict[str, Tensor] = field(default_factory=dict)
    value: list[ValueNetwork] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.method.loss == "ddpo":
            self.memory["rewards"] = torch.full((len(self.data), self.method.buffer), torch.nan, dtype=torch.float64)
        if self.method.loss == "dpok":
            self.memory["reward_standard"] = torch.full((2,), torch.nan, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.data)

    def prepare(self, actor: Actor) -> None:
        """Create DPOK's value network, which depends on the model."""
        if self.method.loss == "dpok" and not self.value:
            self.value.append(
                ValueNetwork.create(
                    actor, self.data, self.method.sampler, self.method.value_learning_rate, self.plan.seed
                )
            )
            self.memory.update(self.value[0].memory)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[PolicyBatch]:
        method, plan = self.method, self.plan
        samples = draw_samples(self.data, plan, method.sampler, actor, step, rows)
        chosen_BS = _choose_steps(samples, method.timesteps, plan.seed, step)
        advantages_BS = self._compute_advantages(actor, samples, chosen_BS)
        metrics = make_reward_metrics(samples.rewards_N)
        weights_B = weigh_known(samples.rewards_N)[samples.own_B]
        batches = []
        for epoch in range(method.epochs):
            order = derive_seed(plan.seed, "update", step, epoch)
            for images in split_groups(samples.own_B, method.group, method.updates, order):
                batches.append(self._make_batch(samples, images, chosen_BS, advantages_BS, weights_B, metrics))
        return batches

    def loss(self, actor: Actor, batch: PolicyBatch) -> tuple[Tensor, Metrics]:
        method = self.method
        sampler = method.sampler
        prediction, schedule = sampler.make_prediction(actor), sampler.find_schedule(cast(SamplingModel, actor.model))
        prompted, unprompted = join_prompted(self.data, batch.prompts_R, batch.device)
        given = (batch.states_RCHW, batch.times_R, prompted, unprompted)
        predicted_RCHW = prediction.predict(actor.network, *given)
        steps = (batch.states_RCHW, batch.times_R, batch.next_times_R, method.eta)
        mean_RCHW, std = schedule.transition(predicted_RCHW, *steps)
        change_R = compute_log_probability(batch.next_states_RCHW, mean_RCHW, std) - batch.log_probabilities_R
        policy_R = compute_policy_loss(change_R, batch.advantages_R, method.clip)
        kl_R = torch.zeros_like(policy_R)
        if method.kl > 0:
            base_RCHW = self._predict_base(actor, prediction, *given)
            if method.loss == "dpok":
                kl_R = (predicted_RCHW - base_RCHW).square().mean(dim=(1, 2, 3))
            else:
                base_mean_RCHW, _ = schedule.transition(base_RCHW, *steps)
                kl_R = ((mean_RCHW - base_mean_RCHW).square() / (2 * std**2)).mean(dim=(1, 2, 3))
        loss = (batch.weights_R * (policy_R + method.kl * kl_R)).mean()
        with torch.no_grad():
            outside_R = ((change_R.exp() - 1).abs() > method.clip).float()
            figures = {
                "loss": loss,
                "ratio_change": change_R.square().mean() / 2,
                "clipped": outside_R.mean(),
                "kl": kl_R.mean(),
            }
        return loss, {**{name: value.detach() for name, value in figures.items()}, **batch.metrics}

    def observe(self, figures: Mapping[str, float]) -> None:
        """Change nothing: `collect` updates the memory with each step's rewards."""

    def _predict_base(self, actor: Actor, prediction: GuidedPrediction, *given: object) -> Tensor:
        if actor.reference is None:
            raise ValueError("training.method.kl needs a reference")
        with actor.reference() as frozen:
            predicted_RCHW = prediction.predict(frozen, *given)  # type: ignore[arg-type]
        # Autograd can't use an inference tensor; its clone is an ordinary tensor.
        return predicted_RCHW.clone()

    def _compute_advantages(self, actor: Actor, samples: Samples, chosen_BS: Tensor) -> Tensor:
        """Return the advantages of the chosen steps, float32 (B, S'); 0 for images without a reward."""
        method, rewards_N = self.method, samples.rewards_N
        if method.loss == "dpok":
            samples = replace(samples, rewards_N=standardise_by_first(self.memory["reward_standard"], rewards_N))
            advantages_BS = self.value[0].learn(actor, self.data, samples, chosen_BS, method.value_updates)
        else:
            if method.loss == "ddpo":
                advantages_N = track_rewards(
                    self.memory["rewards"], samples.prompts_N, rewards_N, method.buffer_minimum
                )
            else:
                groups_N = samples.prompts_N if method.loss == "grpo" else torch.zeros_like(samples.prompts_N)
                advantages_N = standardise_rewards(rewards_N, groups_N)
            advantages_BS = advantages_N[samples.own_B].nan_to_num()[:, None].expand(chosen_BS.shape)
            advantages_BS = advantages_BS.clamp(-method.advantage_limit, method.advantage_limit)
        return advantages_BS.float()

    def _make_batch(
        self,
        samples: Samples,
        images_B: Tensor,
        chosen_BS: Tensor,
        advantages_BS: Tensor,
        weights_B: Tensor,
        metrics: Metrics,
    ) -> PolicyBatch:
        """Return the batch of the chosen steps of `images_B`, one row per step."""
        trajectory = samples.trajectory
        images_R = images_B.repeat_interleave(chosen_BS.shape[1])
        steps_R = chosen_BS[images_B].flatten()
        return PolicyBatch(
            self.data,
            samples.prompts_B[images_R],
            trajectory.states_BSCHW[images_R, steps_R],
            trajectory.next_states_BSCHW[images_R, steps_R],
            trajectory.times_S[steps_R],
            trajectory.next_times_S[steps_R],
            trajectory.log_probabilities_BS[images_R, steps_R],
            advantages_BS[images_B].flatten(),
            weights_B[images_R] * self._weigh_steps(trajectory.stds_S)[steps_R],
            metrics,
        )

    def _weigh_steps(self, stds_S: Tensor) -> Tensor:
        """Return the weights of the steps, (S,), with a mean of 1."""
        return torch.ones_like(stds_S) if self.method.step_weights == "equal" else stds_S**2 / (stds_S**2).mean()


def compute_policy_loss(change_R: Tensor, advantages_R: Tensor, clip: float) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) with rho = exp(change): float32 (R,).

    The maximum keeps the gradient of a ratio that has left the range on the wrong side. DPOK's published code clips
    without the maximum, so that such a ratio is never pulled back.
    """
    ratio_R = change_R.exp()
    return torch.maximum(-advantages_R * ratio_R, -advantages_R * ratio_R.clamp(1 - clip, 1 + clip))


def standardise_by_first(standard: Tensor, rewards_N: Tensor) -> Tensor:
    """Return (r - mean) / std with the mean and std of the first call's rewards: float64 (N,), NaN without a reward.

    Args:
        standard: that mean and standard deviation, (2,); if they are NaN, this call sets them from `rewards_N`.
    """
    if standard.isnan().any():
        known_N = rewards_N[rewards_N.isfinite()]
        standard.copy_(torch.stack([known_N.mean(), known_N.std(correction=0) + 1e-6]))
    return (rewards_N - standard[0]) / standard[1]


def track_rewards(tracked: Tensor, prompts_N: Tensor, rewards_N: Tensor, minimum: int) -> Tensor:
    """Add a step's rewards to `tracked`, and return them standardised: float64 (N,), NaN without a reward.

    For a prompt with at least `minimum` tracked rewards, including this step's, the mean and standard deviation are
    those of its tracked rewards; for the others, those of the step's rewards.

    Args:
        tracked: the last rewards of each prompt, the newest last, NaN where there is none yet: (prompts, buffer).
    """
    known_N = rewards_N.isfinite()
    for prompt, reward in zip(prompts_N[known_N].tolist(), rewards_N[known_N].tolist(), strict=True):
        tracked[prompt] = torch.cat([tracked[prompt, 1:], tracked.new_tensor([reward])])
    advantages_N = standardise_rewards(rewards_N, torch.zeros_like(prompts_N), epsilon=1e-8)
    for prompt in prompts_N.unique().tolist():
        own = tracked[prompt][tracked[prompt].isfinite()]
        if len(own) >= minimum:
            of_prompt_N = prompts_N == prompt
            advantages_N[of_prompt_N] = (rewards_N[of_prompt_N] - own.mean()) / (own.std(correction=0) + 1e-6)
    return advantages_N


def _choose_steps(samples: Samples, share: float, seed: int, step: int) -> Tensor:
    """Draw the steps of each image to train on, a share of the steps with a density: int64 (B, S')."""
    count = len(samples.trajectory.times_S)
    if not count:
        raise RecipeError("training.method.eta must be above 0: a sampling without noise has no probabilities")
    kept = max(1, round(share * count))
    orders = [
        torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, "steps", step, place)))[:kept]
        for place in samples.own_B.tolist()
    ]
    return torch.stack(orders)
