"""The training loop, the same for every method: collect a step's batches, take an optimizer step on each.

All randomness of a step follows from (seed, step), so that a resume is exact.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from agfsync.engine.batch_fitting import release_memory
from agfsync.errors import DivergedError, ModelError, PeerError, lacks_memory
from agfsync.training.attention import trainable_attention
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.metrics import MetricsLog
from agfsync.training.objective import Actor, Batch, Objective, TrainingPlan
from agfsync.training.precision import loss_scaler
from agfsync.training.processes import ALONE, Processes
from agfsync.training.state import TrainingState


@dataclass(frozen=True, slots=True)
class _Training:
    """The parts of a training that stay the same from step to step."""

    actor: Actor
    objective: Objective
    plan: TrainingPlan
    processes: Processes
    say: Callable[[str], None]


def train(
    actor: Actor,
    objective: Objective,
    plan: TrainingPlan,
    checkpoints: Checkpoints,
    log: Path,
    on_step: Callable[[Mapping[str, float]], None],
    *,
    processes: Processes = ALONE,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Train the actor's network in place, from the last checkpoint if there is one.

    The network ends with its last weights, or with their average where the plan asks for one.

    Each step's figures go to `log`, a JSON line each, and to `on_step`: step (1 for the first), the objective's
    metrics, gradient_norm (before it is clipped; 0 in a step that is left out because fp16 overflowed), learning_rate
    and seconds; with fp16 also loss_scale. Of a step with several batches they are the means.

    All of several `processes` must call this alike. Each does its share of every step, and all end with the same
    weights; only the first writes and reports. A batch that doesn't fit into memory is split into twice as many parts,
    down to one row each, and so are those after it, also after a resume.

    Raises:
        DivergedError: a loss or gradient isn't finite; the weights are those of the step before.
        RecipeError: the plan needs a package or an accelerator that isn't there.
        ModelError: the network has no gradient checkpointing, and the plan asks for it.
        StoreError: a checkpoint or the log can't be written.
        PeerError: another process is gone, or starts from another checkpoint.
    """
    if plan.gradient_checkpointing:
        _enable_gradient_checkpointing(actor.network)
    scaler = loss_scaler(actor.device, plan.precision)
    state = TrainingState.of(actor.network, plan.optimizer, plan.weight_decay, scaler, plan.ema, plan.betas)
    training = _Training(actor, objective, plan, processes, say)
    done = checkpoints.restore(state)
    if not processes.agree(done):
        raise PeerError("the processes find other checkpoints: the run's folder must be on a disk that all share")
    writing = MetricsLog(log, done) if processes.is_first else nullcontext()
    with writing as metrics, trainable_attention(actor.device):
        for step in range(done, plan.steps):
            started = time.perf_counter()
            rate = learning_rate(plan, step)
            figures = _run_step(training, state, step, rate)
            if metrics is None:
                continue
            line = {"step": step + 1, **figures, "learning_rate": rate, "seconds": time.perf_counter() - started}
            metrics.write(line)
            if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
                metrics.flush()
                checkpoints.save(step + 1, state)
            on_step(line)
    if state.average is not None:
        state.average.put(state.parameters)


def learning_rate(plan: TrainingPlan, step: int) -> float:
    """Return the rate of a step: a linear warm-up, then constant, half a cosine to 0, or a line to a twentieth."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    if plan.schedule == "constant":
        return plan.learning_rate
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    if plan.schedule == "linear":
        return plan.learning_rate * max(0.05, 1 - progress)
    return plan.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def _enable_gradient_checkpointing(network: nn.Module) -> None:
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError) as failure:
        raise ModelError(
            "this model has no gradient checkpointing: set training.gradient_checkpointing to false"
        ) from failure


def _run_step(training: _Training, state: TrainingState, step: int, rate: float) -> dict[str, float]:
    """Collect the step's batches and update the weights on each; return the mean figures."""
    state.optimizer.param_groups[0]["lr"] = rate
    rows = training.processes.share(training.plan.batch)
    updates = [
        _update(training, state, step, batch) for batch in training.objective.collect(training.actor, step, rows)
    ]
    return {name: math.fsum(figures[name] for figures in updates) / len(updates) for name in updates[0]}


def _update(training: _Training, state: TrainingState, step: int, batch: Batch) -> dict[str, float]:
    """Take one optimizer step on `batch`: gradient, then weights."""
    plan = training.plan
    figures = _sum_gradients(training, state, step, batch)
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.optimizer.param_groups[0]["params"], plan.max_gradient_norm)
    scale = state.scaler.get_scale()
    # A gradient that overflows under a scale only says that it is too large: the update is left out, the scale halved.
    # Without scaling the scale is 1.
    if scale <= 1:
        _check_finite("gradient", norm.item(), step, plan)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.updates += 1
    if state.average is not None:
        state.average.update(state.parameters, state.updates)
    figures["gradient_norm"] = norm.item() if torch.isfinite(norm) else 0.0
    return figures | ({"loss_scale": scale} if state.scaler.is_enabled() else {})


def _sum_gradients(training: _Training, state: TrainingState, step: int, batch: Batch) -> dict[str, float]:
    """Put the gradient of all processes into the parameters; return the metrics of all."""
    processes = training.processes
    (size,) = processes.total([len(batch)])
    loss, figures = _backward_that_fits(training, state, step, batch, int(size))
    loss, *values = processes.total([loss, *figures.values()])
    _check_finite("loss", loss, step, training.plan)
    processes.add_up([p.grad for p in state.parameters.values() if p.grad is not None])
    return dict(zip(figures, values, strict=True))


def _backward_that_fits(
    training: _Training, state: TrainingState, step: int, batch: Batch, size: int
) -> tuple[float, dict[str, float]]:
    """Call `_backward` in more and more parts until each fits into the memory of every process.

    Raises:
        Exception: one row doesn't fit, as the library says it. PeerError: it doesn't in another process.
    """
    processes, before = training.processes, _count_parts(training, state)
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        found: tuple[float, dict[str, float]] | None = None
        lacking: Exception | None = None
        try:
            found = _backward(training, state, batch, size)
        except Exception as failure:
            if not lacks_memory(failure):
                raise
            lacking = failure
        parts = _count_parts(training, state)
        if not processes.any(lacking is not None) and found is not None:
            if parts > before:
                training.say(f"a step doesn't fit into memory: from step {step + 1} on it has {state.parts} parts")
            return found
        if parts * processes.count >= size:
            raise lacking or PeerError("another process of the training lacks the memory for one item")
        state.parts = min(2 * parts * processes.count, size)
        # The failure holds the frames in which the tensors are.
        lacking = None
        release_memory()


def _count_parts(training: _Training, state: TrainingState) -> int:
    """Return the parts of each process's share: parts as small as one process alone makes them."""
    return -(-max(training.plan.accumulate, state.parts) // training.processes.count)


def _backward(training: _Training, state: TrainingState, batch: Batch, size: int) -> tuple[float, dict[str, float]]:
    """Add the scaled gradient of this process's rows to the parameters; each counts as one of the `size` of all.

    Returns the share of the loss and of the metrics.
    """
    actor = training.actor
    total, figures = 0.0, dict[str, float]()
    for rows in torch.arange(len(batch)).tensor_split(min(_count_parts(training, state), len(batch))):
        share = len(rows) / size
        loss, metrics = training.objective.loss(actor, batch.part(rows, actor.device))
        state.scaler.scale(loss * share).backward()
        total += share * loss.item()
        for name, value in metrics.items():
            figures[name] = figures.get(name, 0.0) + share * value.item()
    return total, figures


def _check_finite(what: str, value: float, step: int, plan: TrainingPlan) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"training diverged: the {what} is {value} at step {step + 1}; lower training.learning_rate "
            f"(now {plan.learning_rate:g}) or training.method.beta, or set training.precision to fp32"
        )
