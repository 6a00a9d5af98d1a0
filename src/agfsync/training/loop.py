"""The training loop of every method: collect the batches of a step, and take an optimizer step on each.

All random numbers of a step follow from (seed, step), so that a resume is exact.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from agfsync.engine.batch_fitting import release_memory
from agfsync.errors import DivergedError, ModelError, PeerError, lacks_memory
from agfsync.training.checkpoints import Checkpoints, iterate_tensors
from agfsync.training.metrics import MetricsLog, read_metrics
from agfsync.training.objective import Actor, Batch, Objective, RememberingObjective, TrainingPlan
from agfsync.training.precision import make_loss_scaler, use_trainable_attention
from agfsync.training.processes import ALONE, Processes, explain_lost_peer
from agfsync.training.reference import FrozenCopy
from agfsync.training.sharding import ShardedNetwork, gather_tensor
from agfsync.training.state import TrainingState
from agfsync.training.watching import LogLine, Watcher


@dataclass(frozen=True, slots=True)
class _Training:
    """The parts of a training that don't change between steps."""

    actor: Actor
    objective: Objective
    plan: TrainingPlan
    processes: Processes
    say: Callable[[str], None]
    watcher: Watcher | None = None


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
    watcher: Watcher | None = None,
) -> None:
    """Train the actor's network in place, from the last checkpoint if there is one.

    The network ends with its last weights, or with their average if the plan has `ema`. A `watcher` measures the
    network before the first step and after some steps, and may end the training; the network then ends with the
    weights of the best measured step.

    The figures of each step are written to `log` as a JSON line, and passed to `on_step`: step (1 for the first), the
    objective's metrics, gradient_norm (before clipping; 0 if the step is skipped because fp16 overflowed),
    learning_rate and seconds; with fp16 also loss_scale. A step with several batches reports their means. The watcher
    adds its figures and watch_seconds; it also adds a line of step 0, which has no other figures.

    With several `processes`, every process must make the same call. Each computes its share of every step, and all end
    with the same weights; only the first writes and reports. If a batch doesn't fit into memory, it is split into twice
    as many parts, down to one row per part. Later batches keep this number of parts, also after a resume.

    Raises:
        DivergedError: a loss or gradient isn't finite; the weights are those of the step before.
        RecipeError: the plan needs a package or an accelerator that is missing.
        ModelError: the plan uses gradient checkpointing, which the network doesn't have.
        StoreError: a checkpoint or the log can't be written.
        PeerError: another process has ended, or starts from another checkpoint.
    """
    if plan.gradient_checkpointing:
        _enable_gradient_checkpointing(actor.network)
    sharded = _shard(actor, processes) if plan.fsdp and processes.count > 1 else None
    scaler = make_loss_scaler(actor.device, plan.precision)
    state = TrainingState.create(actor.network, plan.optimizer, plan.weight_decay, scaler, plan.ema, plan.betas)
    actor = replace(actor, processes=processes)
    if isinstance(objective, RememberingObjective):
        objective.prepare(actor)
        state.memory = objective.memory
    training = _Training(actor, objective, plan, processes, say, watcher)
    ended = watcher.find_end() if watcher else None
    done = checkpoints.restore(state) if ended is None else ended
    if not processes.agree_on(done):
        raise PeerError("the processes find other checkpoints: the run's folder must be on a disk that all share")
    # Every use of a sharded network is an exchange between the processes.
    with explain_lost_peer(by_text=True) if sharded else nullcontext():
        if ended is None:
            _run_steps(training, state, done, checkpoints, log, on_step)
        if (watcher is None or not watcher.load_result(state)) and state.average is not None:
            state.average.copy_to(state.parameters)
        if sharded is not None:
            sharded.make_whole(processes)


def _shard(actor: Actor, processes: Processes) -> ShardedNetwork:
    """Shard the trained network, and its frozen copy if there is one."""
    if isinstance(actor.reference, FrozenCopy):
        actor.reference.shard(processes, actor.precision)
    return ShardedNetwork.shard(actor.network, processes, actor.precision)


def _run_steps(
    training: _Training,
    state: TrainingState,
    done: int,
    checkpoints: Checkpoints,
    log: Path,
    on_step: Callable[[Mapping[str, float]], None],
) -> None:
    """Run the steps after the first `done`, up to the last one or until the watcher ends the training."""
    plan, processes, watcher = training.plan, training.processes, training.watcher
    writing = MetricsLog(log, done) if processes.is_first else nullcontext()
    with writing as metrics, use_trainable_attention(training.actor.device):
        if metrics is not None and watcher is not None:
            watcher.resume(read_metrics(log), done)
        if metrics is not None and watcher is not None and done == 0:
            on_step(_record(training, state, checkpoints, metrics, {"step": 0}))
        for step in range(done, plan.steps):
            started = time.perf_counter()
            rate = compute_learning_rate(plan, step)
            figures = _run_step(training, state, step, rate)
            if metrics is not None:
                seconds = time.perf_counter() - started
                line = {"step": step + 1, **figures, "learning_rate": rate, "seconds": seconds}
                on_step(_record(training, state, checkpoints, metrics, line))
            elif state.is_sharded and _has_checkpoint(plan, step + 1):
                deque(iterate_tensors(state), maxlen=0)  # the first process gathers them
            may_stop = watcher is not None and watcher.may_stop_at(step + 1, plan.steps)
            if watcher is not None and may_stop and processes.any_true(watcher.has_to_stop):
                return
    if processes.is_first and watcher is not None:
        watcher.prune([])


def _record(
    training: _Training, state: TrainingState, checkpoints: Checkpoints, metrics: MetricsLog, line: LogLine
) -> LogLine:
    """Log the line of a step with the watched judge's figures, and save a checkpoint if one is due."""
    plan, watcher, step = training.plan, training.watcher, int(line["step"])
    if watcher is not None:
        line = watcher.observe(line, plan.steps, state)
    metrics.write(line)
    if watcher is not None and watcher.has_to_stop:
        metrics.flush()
        training.say(watcher.end())
    elif step and _has_checkpoint(plan, step):
        metrics.flush()
        checkpoints.save(step, state)
        if watcher is not None:
            watcher.prune(checkpoints.list_steps())
    return line


def _has_checkpoint(plan: TrainingPlan, step: int) -> bool:
    return step % plan.checkpoint_every == 0 or step == plan.steps


def compute_learning_rate(plan: TrainingPlan, step: int) -> float:
    """Return the learning rate of `step`, 0 for the first.

    The rate rises linearly over `plan.warmup` steps. Then it is constant ("constant"), falls to 0 along half a cosine
    ("cosine"), or falls linearly towards 0 and stays at a twentieth from there on ("linear").
    """
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
    """Collect the batches of the step and update the weights on each; return the mean figures."""
    state.optimizer.param_groups[0]["lr"] = rate
    rows = training.processes.take_share(training.plan.batch)
    updates = [
        _update(training, state, step, batch) for batch in training.objective.collect(training.actor, step, rows)
    ]
    return {name: math.fsum(figures[name] for figures in updates) / len(updates) for name in updates[0]}


def _update(training: _Training, state: TrainingState, step: int, batch: Batch) -> dict[str, float]:
    """Take one optimizer step on `batch`, and return its figures."""
    plan = training.plan
    figures = _sum_gradients(training, state, step, batch)
    state.scaler.unscale_(state.optimizer)
    norm = gather_tensor(nn.utils.clip_grad_norm_(state.optimizer.param_groups[0]["params"], plan.max_gradient_norm))
    scale = state.scaler.get_scale()
    # If the scaled gradient overflows, the scale is too large: the scaler skips the update and halves the scale.
    # Without scaling the scale is 1.
    if scale <= 1:
        _check_finite("gradient", norm.item(), step, plan)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.updates += 1
    if state.average is not None:
        state.average.update(state.parameters, state.updates)
    if isinstance(training.objective, RememberingObjective):
        training.objective.observe(figures)
    figures["gradient_norm"] = norm.item() if torch.isfinite(norm) else 0.0
    return figures | ({"loss_scale": scale} if state.scaler.is_enabled() else {})


def _sum_gradients(training: _Training, state: TrainingState, step: int, batch: Batch) -> dict[str, float]:
    """Sum the gradients over all processes, in the parameters; return the metrics over all rows."""
    processes = training.processes
    (size,) = processes.sum_values([len(batch)])
    loss, figures = _backward_in_memory(training, state, step, batch, int(size))
    loss, *values = processes.sum_values([loss, *figures.values()])
    _check_finite("loss", loss, step, training.plan)
    if not state.is_sharded:
        processes.sum_gradients([p.grad for p in state.parameters.values() if p.grad is not None])
    return dict(zip(figures, values, strict=True))


def _backward_in_memory(
    training: _Training, state: TrainingState, step: int, batch: Batch, size: int
) -> tuple[float, dict[str, float]]:
    """Call `_backward`; each time that a process runs out of memory, repeat it in twice as many parts.

    Raises:
        Exception: one row doesn't fit (the library's own error). PeerError: one row doesn't fit in another process.
    """
    processes, before = training.processes, _count_parts(training, state)
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        found: tuple[float, dict[str, float]] | None = None
        lacking: Exception | None = None
        try:
            found = _backward(training, state, batch, size)
        except Exception as failure:
            # The processes of a sharded network are in the middle of an exchange, and can't start again.
            if not lacks_memory(failure) or state.is_sharded:
                raise
            lacking = failure
        parts, share = _count_parts(training, state), _count_shares(training, batch)
        if not processes.any_true(lacking is not None) and found is not None:
            if parts > before:
                training.say(f"a step doesn't fit into memory: from step {step + 1} on it has {state.parts} parts")
            return found
        if parts * share * processes.count >= size:
            raise lacking or PeerError("another process of the training lacks the memory for one item")
        state.parts = min(2 * parts * processes.count, size)
        # The exception references the frames, which hold the tensors.
        lacking = None
        release_memory()


def _count_parts(training: _Training, state: TrainingState) -> int:
    """Return the number of parts of each process's share; a part has the same size as with a single process."""
    return -(-max(training.plan.accumulate, state.parts) // training.processes.count)


def _count_shares(training: _Training, batch: Batch) -> int:
    """Return the number of rows per item of this process's batch, rounded up: a factor for the number of parts.

    With it, a part has the same number of rows, whether an item has one row or several.
    """
    return max(1, -(-len(batch) // max(1, len(training.processes.take_share(training.plan.batch)))))


def _backward(training: _Training, state: TrainingState, batch: Batch, size: int) -> tuple[float, dict[str, float]]:
    """Add the scaled gradient of this process's rows to the parameters; return their share of the loss and the metrics.

    Each row has the weight 1 / `size`, where `size` is the number of rows of all processes.
    """
    actor = training.actor
    total, figures = 0.0, dict[str, float]()
    parts = _count_parts(training, state) * _count_shares(training, batch)
    for rows in torch.arange(len(batch)).tensor_split(min(parts, len(batch))):
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
            f"(now {plan.learning_rate:g}), or set training.precision to fp32"
        )
