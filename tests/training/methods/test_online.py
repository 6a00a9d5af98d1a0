"""The online methods against naive second implementations, and the defects of published code that they lack."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from agfsync import catalog
from agfsync.errors import RecipeError
from agfsync.models.schedules import DiffusionSchedule
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.records import derive_seed
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.training.methods.awm import AdvantageWeightedMatching
from agfsync.training.methods.clean_images import CleanBatch
from agfsync.training.methods.nft import DiffusionNFT, compute_nft_loss, normalise_error
from agfsync.training.methods.online import (
    Sampler,
    draw_samples,
    list_window_places,
    make_reward_metrics,
    split_groups,
    weigh_known,
)
from agfsync.training.methods.policy_gradient import (
    PolicyGradient,
    compute_policy_loss,
    standardise_by_first,
    track_rewards,
)
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.rewards import Rewards, standardise_rewards
from agfsync.training.trajectories import GuidedPrediction, compute_log_probability, sample_trajectory

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
PLAN = TrainingPlan(steps=2, batch=2, learning_rate=1e-3, seed=1, precision="fp32")


class Fixed:
    """A scorer of 10, 20, ... by the order in which it is asked; None gives no score."""

    asks_questions = False

    def __init__(self, values: Sequence[float | None]) -> None:
        self.values = list(values)

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        taken, self.values = self.values[: len(items)], self.values[len(items) :]
        return [Unscored("no reply") if value is None else Measurement(value) for value in taken]


def make_data(denoiser: StableDiffusion, scorer: Fixed, weights: dict[str, float] | None = None) -> PromptData:
    prompts = ["a red circle", "two green squares"]
    rewards = Rewards(weights or {"judge": 1.0}, lambda name: scorer)
    return PromptData(prompts, [(), ()], denoiser.encode_prompts(prompts), denoiser.encode_prompts([""]), rewards)


def test_the_policy_loss_and_its_gradient() -> None:
    change = torch.tensor([0.0, 0.3, 0.3, -0.3, -0.3], requires_grad=True)
    advantages = torch.tensor([1.0, 2.0, -2.0, 2.0, -2.0])
    loss = compute_policy_loss(change, advantages, 0.1).sum()
    naive = torch.zeros(())
    for c, a in zip(change, advantages, strict=True):
        ratio = torch.exp(c)
        clipped = torch.clip(ratio, 0.9, 1.1)
        naive = naive + (-a * ratio if -a * ratio > -a * clipped else -a * clipped)
    torch.testing.assert_close(loss, naive, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, change)[0], torch.autograd.grad(naive, change)[0], **CLOSE)


def test_a_ratio_that_has_left_the_range_to_the_wrong_side_is_pulled_back() -> None:
    # DPOK's published code clips alone: its gradient is 0 here.
    change = torch.tensor([0.5, -0.5], requires_grad=True)
    compute_policy_loss(change, torch.tensor([-1.0, 1.0]), 1e-4).sum().backward()
    assert change.grad is not None and change.grad[0] > 0 and change.grad[1] < 0


def test_the_log_probability_is_the_gaussians_averaged_over_elements() -> None:
    after, mean, std = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2), torch.tensor([0.5, 2.0]).view(2, 1, 1, 1)
    normal = torch.distributions.Normal(mean, std.expand_as(mean))
    expected = normal.log_prob(after).flatten(1).mean(dim=1)
    torch.testing.assert_close(compute_log_probability(after, mean, std), expected, **CLOSE)


def test_before_any_update_every_ratio_is_one_to_the_last_bits(denoiser: StableDiffusion) -> None:
    """The published code rounds the states to half precision after taking the probability, which moves the ratios."""
    objective = PolicyGradient({"judge": 1.0}, "grpo", group=2, steps=4, guidance=3.0).objective(
        make_data(denoiser, Fixed([1.0, 2.0, 3.0, 5.0])), PLAN
    )
    actor = Actor(denoiser)
    (batch,) = objective.collect(actor, 0, torch.arange(2))
    _, metrics = objective.loss(actor, batch)
    assert metrics["ratio_change"] < 1e-11 and metrics["clipped"] == 0
    assert batch.states_RCHW.dtype == torch.float32


@pytest.mark.parametrize("final", [1.0, 0.9996])
def test_a_transition_without_variance_is_left_out(denoiser: StableDiffusion, final: float) -> None:
    """With steps_offset 0 the last step has no variance: the logarithm of 0 gave NaN in the published code."""
    given = denoiser.schedule
    denoiser.__dict__["schedule"] = DiffusionSchedule(given.alphas_cumprod_N, "epsilon", final_alpha=final)
    conditioning = denoiser.encode_prompts(["a", "b"])
    drawn = sample_trajectory(
        GuidedPrediction(denoiser, 1.0), denoiser.network, conditioning, conditioning, [1, 2], 5, 1.0
    )
    assert drawn.states_BSCHW.shape[1] == (4 if final == 1.0 else 5)
    assert torch.isfinite(drawn.log_probabilities_BS).all()


def test_an_image_depends_on_its_seed_alone(denoiser: StableDiffusion) -> None:
    conditioning = denoiser.encode_prompts(["a", "b", "c"])
    prediction = GuidedPrediction(denoiser, 2.0)

    def draw(rows: list[int]) -> torch.Tensor:
        told = {name: tensor[rows] for name, tensor in conditioning.items()}
        blank = {name: tensor[:1].expand_as(told[name]) for name, tensor in conditioning.items()}
        return sample_trajectory(prediction, denoiser.network, told, blank, [10 + r for r in rows], 3, 1.0).latents_BCHW

    torch.testing.assert_close(draw([0, 1, 2])[1:], torch.cat([draw([1]), draw([2])]), rtol=1e-4, atol=1e-5)


def test_without_noise_it_draws_what_ddim_draws(denoiser: StableDiffusion) -> None:
    from diffusers import DDIMScheduler

    conditioning = denoiser.encode_prompts(["a red circle"])
    drawn = sample_trajectory(
        GuidedPrediction(denoiser, 1.0), denoiser.network, conditioning, conditioning, [7], 4, 0.0
    )
    scheduler = DDIMScheduler.from_config(cast(Any, denoiser)._scheduler.config, clip_sample=False)
    scheduler.set_timesteps(4)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for time in scheduler.timesteps:
            predicted = denoiser.predict(denoiser.network, latents, time.expand(1), conditioning)
            latents = scheduler.step(predicted, time, latents).prev_sample
    torch.testing.assert_close(drawn.latents_BCHW, latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_only_the_steps_in_the_window_have_noise_and_are_trained(tiny_sd3_generator: Path, kind: str) -> None:
    model = catalog.build(
        "models",
        {"type": "stable-diffusion-3", "path": str(tiny_sd3_generator), "device": "cpu", "height": 16, "width": 16},
    )
    method = PolicyGradient(
        {"judge": 1.0},
        "grpo",
        group=2,
        steps=6,
        guidance=1.0,
        eta=0.7,
        stochastic_step=kind,
        window=2,  # type: ignore[arg-type]
    )
    data, actor = make_data(model, Fixed([1.0, 2.0, 3.0, 5.0] * 2)), Actor(model)
    samples = draw_samples(data, PLAN, method.sampler, actor, 0, torch.arange(2))
    drawn, grid = samples.trajectory, model.schedule.grid(6).tolist()
    first = grid.index(drawn.times_S[0].item())
    assert drawn.times_S.tolist() == grid[first : first + 2] and first in (0, 1)
    others = {len(range(6)[method.sampler.draw_window(6, seed).start :]) for seed in range(20)}
    assert others == {6, 5}, "the window's place is drawn anew, in the first half"
    # By hand: Euler's steps but for the two in the window, with the noise that each step's generator gives.
    sources = [torch.Generator().manual_seed(derive_seed(PLAN.seed, "sample", 0, place)) for place in range(4)]
    state = torch.stack([torch.randn(model.latent_shape, generator=source) for source in sources])
    told = data.make_conditioning(samples.prompts_B, model.device)
    with torch.no_grad():
        for place in range(6):
            s, later = grid[place], grid[place + 1]
            noise = torch.stack([torch.randn(model.latent_shape, generator=source) for source in sources])
            v = model.predict(model.network, state, torch.full((4,), s), told)
            if place not in (first, first + 1):
                state = state + (later - s) * v
            elif kind == "cps":
                std = later * math.sin(0.7 * math.pi / 2)
                kept = math.sqrt(later**2 - std**2)
                state = (1 - later) * (state - s * v) + kept * (state + (1 - s) * v) + std * noise
            else:
                level = 0.7 * math.sqrt(s / (1 - (later if s == 1 else s)))
                mean = state * (1 + level**2 / (2 * s) * (later - s))
                mean = mean + v * (1 + level**2 * (1 - s) / (2 * s)) * (later - s)
                state = mean + level * math.sqrt(s - later) * noise
    torch.testing.assert_close(drawn.latents_BCHW, state, rtol=1e-4, atol=1e-4)
    (batch,) = PolicyGradient.objective(method, data, PLAN).collect(actor, 0, torch.arange(2))
    assert len(batch) == 4 * 2
    assert method.objective(data, PLAN).loss(actor, batch)[1]["ratio_change"] < 1e-9


def test_cps_is_for_flows_and_a_window_needs_room(denoiser: StableDiffusion) -> None:
    with pytest.raises(RecipeError, match="cps is for models that predict a flow: leave it out"):
        Sampler(2, 4, 1.0, 0.8, "cps").find_schedule(denoiser)
    with pytest.raises(RecipeError, match="window 3 has no room in its share of 4 steps"):
        Sampler(2, 4, 1.0, 0.8, "sde", 3).draw_window(4, 0)
    assert list_window_places(2, (0.25, 1.0), 4) == [1, 2]


def test_a_reward_that_fails_is_no_reward_of_zero(denoiser: StableDiffusion) -> None:
    data = make_data(denoiser, Fixed([50.0, None, 30.0, 10.0]))
    samples = draw_samples(data, PLAN, Sampler(2, 2, 1.0, 1.0), Actor(denoiser), 0, torch.arange(2))
    assert samples.rewards_N.isnan().tolist() == [False, True, False, False]
    assert make_reward_metrics(samples.rewards_N)["reward"].item() == pytest.approx(30.0)
    assert make_reward_metrics(samples.rewards_N)["without_reward"].item() == pytest.approx(0.25)
    weights = weigh_known(samples.rewards_N)
    assert weights.tolist() == pytest.approx([4 / 3, 0.0, 4 / 3, 4 / 3])
    assert data.rewards.failures == {"no judge score: no reply": 1}


def test_without_any_reward_it_stops() -> None:
    with pytest.raises(RecipeError, match="no image of a step has a reward"):
        make_reward_metrics(torch.tensor([math.nan, math.nan]))


def test_rewards_weigh_scores_and_miss_what_one_scorer_misses(denoiser: StableDiffusion) -> None:
    scorers = {"a": Fixed([10.0, 20.0]), "b": Fixed([1.0, None])}
    rewards = Rewards({"a": 0.5, "b": 2.0}, scorers.__getitem__)
    images: Any = denoiser.draw(["x", "y"], [1, 2], 0.0)
    found = rewards.score(images, ["x", "y"], [(), ()])
    assert found.total_B.tolist()[0] == 7.0 and math.isnan(found.total_B.tolist()[1])
    assert found.scores["a"].tolist() == [10.0, 20.0]


def test_groups_have_their_own_mean_and_one_deviation() -> None:
    rewards = torch.tensor([1.0, 3.0, math.nan, 5.0, 5.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 1, 1])
    found = standardise_rewards(rewards, groups, 0.0).tolist()
    deviation = math.sqrt((2.5**2 + 0.5**2 + 2 * 1.5**2) / 4)  # of 1, 3, 5 and 5
    assert found[:2] == pytest.approx([-1 / deviation, 1 / deviation]) and math.isnan(found[2]) and found[3:] == [0, 0]
    # A group of nearly equal images is not blown up to the size of the other.
    small = standardise_rewards(torch.tensor([0.0, 80.0, 50.0, 50.1], dtype=torch.float64), torch.tensor([0, 0, 1, 1]))
    assert small[1] > 1 and small[3] < 0.01


def test_dpok_standardises_by_the_first_rewards() -> None:
    standard = torch.full((2,), math.nan, dtype=torch.float64)
    first = standardise_by_first(standard, torch.tensor([70.0, 90.0, math.nan], dtype=torch.float64)).tolist()
    assert first[:2] == pytest.approx([-1, 1]) and math.isnan(first[2])
    later = standardise_by_first(standard, torch.tensor([100.0, 80.0], dtype=torch.float64))
    assert later.tolist() == pytest.approx([2, 0], abs=1e-6) and standard.tolist() == pytest.approx([80, 10])


def test_the_value_network_sees_standardised_rewards(denoiser: StableDiffusion) -> None:
    """With rewards of 80 every advantage was about 80: the value network had no time to learn that."""
    method = PolicyGradient({"judge": 1.0}, "dpok", group=2, steps=4, guidance=1.0)
    objective = method.objective(make_data(denoiser, Fixed([70.0, 80.0, 80.0, 90.0])), PLAN)
    objective.prepare(Actor(denoiser))
    (batch,) = objective.collect(Actor(denoiser), 0, torch.arange(2))
    assert batch.advantages_R.abs().max() < 6 and objective.memory["reward_standard"][0] == 80


def test_a_step_counts_by_the_variance_of_its_noise(denoiser: StableDiffusion) -> None:
    """Of 10 DDIM steps 101 -> 1 is the last with noise: 7.9 times the gradient of 901 -> 801, and no effect."""
    rewards = [1.0, 2.0, 3.0, 5.0]
    batches = []
    for weights in ("variance", "equal"):
        method = PolicyGradient({"judge": 1.0}, "grpo", 2, 10, 1.0, step_weights=weights)  # type: ignore[arg-type]
        objective = method.objective(make_data(denoiser, Fixed(rewards)), PLAN)
        batches.append(objective.collect(Actor(denoiser), 0, torch.arange(2))[0])
    varied, equal = batches
    assert equal.weights_R.unique().tolist() == [1.0]
    schedule, times = denoiser.schedule, varied.times_R.unique()
    assert times.tolist() == list(range(101, 1000, 100))
    zero = torch.zeros(9, 4, 8, 8)
    stds = schedule.transition(zero, zero, times, times - 100, 1.0)[1].flatten()
    expected = stds**2 / (stds**2).mean()
    for time, weight in zip(times, expected, strict=True):
        torch.testing.assert_close(varied.weights_R[varied.times_R == time], weight.expand(4))
    assert varied.weights_R.mean().item() == pytest.approx(1) and expected[0] < 0.01


def test_a_step_with_next_to_no_noise_has_no_probability(tiny_sd3_generator: Path) -> None:
    """CPS ends with a step of 1/1000 of the noise: its gradient is some hundred times that of the others."""
    model = catalog.build(
        "models",
        {"type": "stable-diffusion-3", "path": str(tiny_sd3_generator), "device": "cpu", "height": 16, "width": 16},
    )
    conditioning, prediction = model.encode_prompts(["a"]), GuidedPrediction(model, 1.0)
    schedule = Sampler(2, 5, 1.0, 0.8, "cps").find_schedule(model)
    drawn = sample_trajectory(prediction, model.network, conditioning, conditioning, [1], 5, 0.8, schedule=schedule)
    grid = schedule.grid(5)
    stds = grid[1:] * math.sin(0.8 * math.pi / 2)
    assert stds[-2] < 0.01 * stds[0] and stds[-1] == 0
    torch.testing.assert_close(drawn.stds_S, stds[:-2])
    assert drawn.times_S.tolist() == grid[:-3].tolist()


def test_a_prompts_tracked_rewards_count_from_the_minimum_on() -> None:
    tracked = torch.full((2, 4), math.nan, dtype=torch.float64)
    prompts = torch.tensor([0, 0, 1])
    step = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    first = track_rewards(tracked, prompts, step, 3)
    expected = (step - 3.0) / (step.std(correction=0) + 1e-8)
    torch.testing.assert_close(first, expected)
    second = track_rewards(tracked, prompts, torch.tensor([5.0, 8.0, math.nan], dtype=torch.float64), 3)
    # The prompt's own four rewards: 1, 2, 5, 8, with a mean of 4 and a variance of 7.5.
    assert second.tolist()[:2] == pytest.approx([1 / math.sqrt(7.5), 4 / math.sqrt(7.5)], rel=1e-5)
    assert math.isnan(second[2]) and tracked[0].tolist() == [1.0, 2.0, 5.0, 8.0]


def test_each_update_has_as_many_images_of_every_prompt() -> None:
    batches = split_groups(torch.arange(12), 4, 2, 5)
    assert sorted(torch.cat(batches).tolist()) == list(range(12))
    for batch in batches:
        assert (batch // 4).bincount().tolist() == [2, 2, 2]
    # A process that has the second prompt alone puts its images into the same batches.
    alone = split_groups(torch.arange(4, 8), 4, 2, 5)
    assert [(each + 4).tolist() for each in alone] == [each[each // 4 == 1].tolist() for each in batches]
    with pytest.raises(RecipeError, match="updates 5 is more than the 4 images"):
        split_groups(torch.arange(4), 4, 5, 0)


def test_eta_zero_has_no_policy(denoiser: StableDiffusion) -> None:
    method = PolicyGradient({"judge": 1.0}, "grpo", group=1, steps=2, guidance=1.0, eta=0.0)
    objective = method.objective(make_data(denoiser, Fixed([1.0, 2.0])), PLAN)
    with pytest.raises(RecipeError, match="eta must be above 0"):
        objective.collect(Actor(denoiser), 0, torch.arange(2))


def clean_batch(count: int = 3) -> tuple[CleanBatch, torch.Tensor, torch.Tensor, DiffusionSchedule]:
    source = torch.Generator().manual_seed(2)

    def draw() -> torch.Tensor:
        return torch.randn(count, 4, 2, 2, generator=source)

    schedule = DiffusionSchedule(torch.linspace(0.999, 0.01, 100))
    times = torch.tensor([10, 50, 90])
    batch = CleanBatch(
        torch.zeros(count, dtype=torch.int64),
        draw(),
        draw(),
        times,
        draw(),
        torch.tensor([-2.0, 0.5, 9.0]),
        torch.ones(count),
        {},
    )
    predicted = draw().requires_grad_()
    return batch, schedule.noisy(batch.clean_BCHW, batch.noise_BCHW, times), predicted, schedule


def test_nft_and_its_gradient() -> None:
    batch, noisy, predicted, schedule = clean_batch()
    loss = DiffusionNFT(reward={}, beta=0.5).compute_errors(schedule, batch, noisy, predicted).sum()
    naive = torch.zeros(())
    for row in range(3):
        alpha = schedule.alphas_cumprod_N[batch.times_B[row]]
        r = min(max(batch.advantages_B[row].item() / 5, -1), 1) / 2 + 0.5
        old = batch.old_BCHW[row]
        errors = []
        for guess in (0.5 * predicted[row] + 0.5 * old, 1.5 * old - 0.5 * predicted[row]):
            clean = (noisy[row] - (1 - alpha).sqrt() * guess) / alpha.sqrt()
            difference = clean - batch.clean_BCHW[row]
            errors.append(difference.pow(2).mean() / max(difference.abs().mean().item(), 1e-5))
        naive = naive + 5 * (r * errors[0] + (1 - r) * errors[1]) / 0.5
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(loss, predicted)[0], torch.autograd.grad(naive, predicted)[0], **CLOSE
    )


def test_nft_of_a_middling_image_keeps_the_network_where_it_is() -> None:
    batch, noisy, _, schedule = clean_batch()
    predicted = batch.old_BCHW.clone().requires_grad_()
    method = DiffusionNFT(reward={}, beta=1.0)
    errors = method.compute_errors(schedule, CleanBatch(*_with_advantage(batch, 0.0)), noisy, predicted)
    (gradient,) = torch.autograd.grad(errors.sum(), predicted)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    assert compute_nft_loss(torch.ones(1), torch.ones(1), torch.full((1,), 0.5), 1.0).item() == 5.0
    assert normalise_error(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)).item() == 1.0


def _with_advantage(batch: CleanBatch, value: float) -> list[Any]:
    from dataclasses import fields

    found = [getattr(batch, each.name) for each in fields(batch)]
    found[5] = torch.full((3,), value)
    return found


def test_each_image_is_trained_at_several_times(denoiser: StableDiffusion) -> None:
    """The published code trains an image at all times of its sampling: one alone is mostly noise."""
    rewards = [10.0, 20.0, 30.0, 50.0]
    batches: dict[int | None, list[CleanBatch]] = {}
    for noisings in (None, 1, 3):
        data = make_data(denoiser, Fixed(rewards))
        method = DiffusionNFT(reward={"judge": 1.0}, group=2, steps=4, noisings=noisings, kl=0.0, updates=2)
        objective = method.objective(data, PLAN)
        objective.prepare(Actor(denoiser))
        batches[noisings] = list(objective.collect(Actor(denoiser), 0, torch.arange(2)))
    assert [len(each) for each in batches[None]] == [8, 8]  # 2 of the 4 images, at as many times as steps
    assert [len(each) for each in batches[1]] == [2, 2]
    for batch, once in zip(batches[3], batches[1], strict=True):
        assert len(batch.times_B.unique()) > 2
        assert batch.prompts_B.tolist() == once.prompts_B.repeat_interleave(3).tolist()
        torch.testing.assert_close(batch.advantages_B, once.advantages_B.repeat_interleave(3))
        torch.testing.assert_close(batch.clean_BCHW, once.clean_BCHW.repeat_interleave(3, dim=0), rtol=0, atol=0)
        assert len(batch.noise_BCHW.flatten(1).unique(dim=0)) == 6


def test_awm_and_its_gradient() -> None:
    batch, noisy, _, schedule = clean_batch()
    predicted = (batch.old_BCHW + 0.02 * torch.randn_like(batch.old_BCHW)).requires_grad_()
    loss = AdvantageWeightedMatching(reward={}, clip=0.2).compute_errors(schedule, batch, noisy, predicted).sum()
    naive = torch.zeros(())
    for row in range(3):
        m = (predicted[row] - batch.noise_BCHW[row]).pow(2).mean()
        old = (batch.old_BCHW[row] - batch.noise_BCHW[row]).pow(2).mean()
        ratio, a = torch.exp(old - m), batch.advantages_B[row]
        naive = naive + torch.max(-a * ratio, -a * ratio.clip(0.8, 1.2))
    torch.testing.assert_close(loss, naive, **CLOSE)
    torch.testing.assert_close(
        torch.autograd.grad(loss, predicted)[0], torch.autograd.grad(naive, predicted)[0], **CLOSE
    )
