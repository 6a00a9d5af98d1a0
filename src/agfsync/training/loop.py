"""The training loop, the same for every method.

Whatever is random in a step follows from (seed, step), so that a resume is exact.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from agfsync.engine.memory import release
from agfsync.errors import DivergedError, ModelError, PeerError, lacks_memory
from agfsync.training import Denoiser, Method, PairErrors, Reference
from agfsync.training.attention import trainable_attention
from agfsync.training.batches import Batch, EncodedPairs, dropped_of_step, rows_of_step
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.metrics import MetricsLog
from agfsync.training.noising import (
    PairNoise,
    add_noise,
    draw_noise,
    epsilon_weight,
    min_snr_weight,
    squared_error,
    target,
)
from agfsync.training.precision import autocast, loss_scaler
from agfsync.training.processes import ALONE, Processes
from agfsync.training.state import TrainingState

Tell = Callable[[Mapping[str, float]], None]
"""Is told the figures of each step, as the log has them."""
LossSpace = Literal["model", "epsilon"]
Say = Callable[[str], None]
"""Is told of what changes by the way."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train. `batch` is in pairs, `warmup` and `checkpoint_every` in steps.

    A step's pairs go through the networks in `accumulate` parts, one after the other, which changes no more than the
    last bits of the step; several processes share the parts. `ema` is the decay of the weights' average. `loss_space`
    is whose errors the loss takes: what the network predicts, or the noise.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 0
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    checkpoint_every: int = 50
    accumulate: int = 1
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    ema: float | None = None
    min_snr_gamma: float | None = None
    caption_dropout: float = 0.0
    loss_space: LossSpace = "model"


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, towards what, on what, and how."""

    denoiser: Denoiser
    reference: Reference
    method: Method
    pairs: EncodedPairs
    plan: Plan
    processes: Processes = ALONE
    say: Say = lambda text: None


def align(
    denoiser: Denoiser,
    reference: Reference,
    method: Method,
    pairs: EncodedPairs,
    plan: Plan,
    checkpoints: Checkpoints,
    log: Path,
    tell: Tell,
    *,
    processes: Processes = ALONE,
    say: Say = lambda text: None,
) -> None:
    """Trains `denoiser`'s network in place on `pairs`, from the last checkpoint if there is one.

    It ends as its last weights, or as their average where the plan asks for one.

    Each step's figures go to `log`, a JSON line each: step (1 for the first), the method's metrics, gradient_norm
    (before it is clipped; 0 in a step that is left out because fp16 overflowed), learning_rate and seconds; with fp16
    also loss_scale.

    Of several `processes`, all of which must call this alike, each does its share of every step, and all end with the
    same weights; the first alone writes and tells. A step that doesn't fit into memory is done again in twice as many
    parts, down to one pair each, and so are those after it, also after a resume.

    Raises:
        DivergedError: a loss or gradient isn't finite; the weights are those of the step before.
        RecipeError: the plan needs a package or an accelerator that isn't there.
        ModelError: the network can't do without keeping its activations, and the plan says that it shall.
        StoreError: a checkpoint or the log can't be written.
        PeerError: another process is gone, or begins elsewhere.
    """
    if plan.gradient_checkpointing:
        _recompute_activations(denoiser.network)
    scaler = loss_scaler(denoiser.device, plan.precision)
    state = TrainingState.of(denoiser.network, plan.optimizer, plan.weight_decay, scaler, plan.ema)
    task = Task(denoiser, reference, method, pairs, plan, processes, say)
    done = checkpoints.restore(state)
    if not processes.agree(done):
        raise PeerError("the processes find other checkpoints: the run's folder must be on a disk that all share")
    writing = MetricsLog(log, done) if processes.is_first else nullcontext()
    with writing as metrics, trainable_attention(denoiser.device):
        for step in range(done, plan.steps):
            started = time.perf_counter()
            rate = learning_rate(plan, step)
            figures = _update(task, state, step, rate)
            if metrics is None:
                continue
            line = {"step": step + 1, **figures, "learning_rate": rate, "seconds": time.perf_counter() - started}
            metrics.write(line)
            if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
                metrics.flush()
                checkpoints.save(step + 1, state)
            tell(line)
    if state.average is not None:
        state.average.put(state.parameters)


def learning_rate(plan: Plan, step: int) -> float:
    """A straight rise over the warm-up; then as it is, or down half a cosine that would reach 0 after the last step."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    if plan.schedule == "constant":
        return plan.learning_rate
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def pair_errors(
    denoiser: Denoiser,
    reference: Reference,
    batch: Batch,
    noise: PairNoise,
    precision: str = "fp32",
    min_snr_gamma: float | None = None,
    loss_space: LossSpace = "model",
) -> PairErrors:
    """The four errors of each pair; winner and loser in one batch, under one noise and timestep.

    With `loss_space` "epsilon" they are weighted by `epsilon_weight`, which makes them the noise's. With
    `min_snr_gamma` they are weighted by `min_snr_weight`, which gives the same in either space.
    """
    noise_BCHW = noise.noise_PCHW.repeat(2, 1, 1, 1).to(denoiser.device)
    timesteps_B = noise.timesteps_P.repeat(2)
    alphas_B = denoiser.alphas_cumprod_N[timesteps_B].to(denoiser.device)
    timesteps_B = timesteps_B.to(denoiser.device)
    noisy_BCHW = add_noise(batch.latents_BCHW, noise_BCHW, alphas_B)
    target_BCHW = target(denoiser.prediction_type, batch.latents_BCHW, noise_BCHW, alphas_B)
    weight_B = _weight(denoiser.prediction_type, alphas_B, min_snr_gamma, loss_space)

    def errors_of(network: nn.Module) -> Tensor:
        # A context of its own for each network: autocast keeps rounded weights for as long as the context lasts.
        with autocast(denoiser.device, precision):
            predicted_BCHW = denoiser.predict(network, noisy_BCHW, timesteps_B, batch.conditioning)
        return squared_error(predicted_BCHW, target_BCHW) * weight_B

    with reference() as frozen:
        base_B = errors_of(frozen)
    winner_P, loser_P = errors_of(denoiser.network).chunk(2)
    # A clone is an ordinary tensor again, which any method may use in what it differentiates.
    winner_reference_P, loser_reference_P = base_B.clone().chunk(2)
    return PairErrors(winner_P, loser_P, winner_reference_P, loser_reference_P)


def _weight(
    prediction_type: str, alphas_B: Tensor, min_snr_gamma: float | None, loss_space: LossSpace
) -> Tensor | float:
    if min_snr_gamma is not None:
        # min-SNR is a weight of x_0's error: that of the noise's, times `epsilon_weight`, is that of v's.
        return min_snr_weight(prediction_type, alphas_B, min_snr_gamma)
    return epsilon_weight(prediction_type, alphas_B) if loss_space == "epsilon" else 1.0


def _recompute_activations(network: nn.Module) -> None:
    """Keeps no activations for the backward pass but computes them again: a third more work, a fraction of the memory.

    Raises:
        ModelError: the network isn't one of diffusers', or can't.
    """
    fault = "this model has no gradient checkpointing: set training.gradient_checkpointing to false"
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError) as failure:
        raise ModelError(fault) from failure


def _update(task: Task, state: TrainingState, step: int, rate: float) -> dict[str, float]:
    """One step: gradient, then weights. Returns the figures to log."""
    plan, group = task.plan, state.optimizer.param_groups[0]
    group["lr"] = rate
    figures = _whole_gradient(task, state, step)
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(group["params"], plan.max_gradient_norm)
    scale = state.scaler.get_scale()
    # A gradient that overflows under a scale only says that it is too large: the step is left out, the scale halved.
    # Without scaling the scale is 1.
    if scale <= 1:
        _check("gradient", norm.item(), step, plan)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update(state.parameters, step + 1)
    figures["gradient_norm"] = norm.item() if torch.isfinite(norm) else 0.0
    return figures | ({"loss_scale": scale} if state.scaler.is_enabled() else {})


def _whole_gradient(task: Task, state: TrainingState, step: int) -> dict[str, float]:
    """`_gradient`, and the metrics, of all processes."""
    loss, figures = _gradient_that_fits(task, state, step)
    loss, *values = task.processes.total([loss, *figures.values()])
    _check("loss", loss, step, task.plan)
    task.processes.add_up([p.grad for p in state.parameters.values() if p.grad is not None])
    return dict(zip(figures, values, strict=True))


def _gradient_that_fits(task: Task, state: TrainingState, step: int) -> tuple[float, dict[str, float]]:
    """`_gradient`, in more and more parts until each fits into the memory of every process.

    Raises:
        Exception: one pair doesn't, as whatever it is told by. PeerError: it doesn't elsewhere.
    """
    processes, before = task.processes, _parts(task, state)
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        found: tuple[float, dict[str, float]] | None = None
        lacking: Exception | None = None
        try:
            found = _gradient(task, state, step)
        except Exception as failure:
            if not lacks_memory(failure):
                raise
            lacking = failure
        parts = _parts(task, state)
        if not processes.any(lacking is not None) and found is not None:
            if parts > before:
                task.say(f"a step doesn't fit into memory: from step {step + 1} on it is done in {state.parts} parts")
            return found
        if parts * processes.count >= task.plan.batch:
            raise lacking or PeerError("another process of the training lacks the memory for one pair")
        state.parts = min(2 * parts * processes.count, task.plan.batch)
        # The failure holds the frames in which the tensors are.
        lacking = None
        release()


def _parts(task: Task, state: TrainingState) -> int:
    """Into how many parts each process splits its share of a step: parts as small as one process alone makes them."""
    return -(-max(task.plan.accumulate, state.parts) // task.processes.count)


def _gradient(task: Task, state: TrainingState, step: int) -> tuple[float, dict[str, float]]:
    """Puts the gradient of the loss of step `step`, times its scale, into the parameters; the loss and the metrics.

    Of this process's pairs, each of which counts as one of the whole batch's.
    """
    denoiser, pairs, plan = task.denoiser, task.pairs, task.plan
    rows = rows_of_step(plan.seed, step, plan.batch, len(pairs))
    shape = torch.Size([len(rows), *pairs.latents_ICHW.shape[1:]])
    noise = draw_noise(plan.seed, step, shape, len(denoiser.alphas_cumprod_N))
    dropped = dropped_of_step(plan.seed, step, len(rows), plan.caption_dropout)
    own = task.processes.share(len(rows))
    total, figures = 0.0, dict[str, float]()
    for part in own.tensor_split(min(_parts(task, state), len(own))):
        share = len(part) / len(rows)
        batch = pairs.batch(rows[part], denoiser.device, None if dropped is None else dropped[part])
        errors = pair_errors(
            denoiser, task.reference, batch, noise.of(part), plan.precision, plan.min_snr_gamma, plan.loss_space
        )
        loss, metrics = task.method.loss(errors)
        state.scaler.scale(loss * share).backward()
        total += share * loss.item()
        for name, value in metrics.items():
            figures[name] = figures.get(name, 0.0) + share * value.item()
    return total, figures


def _check(what: str, value: float, step: int, plan: Plan) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"training diverged: the {what} is {value} at step {step + 1}; lower training.learning_rate "
            f"(now {plan.learning_rate:g}) or training.method.beta, or set training.precision to fp32"
        )
