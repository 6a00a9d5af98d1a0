"""The training loop, the same for every method.

Whatever is random in a step follows from (seed, step), so that a resume is exact.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from agfsync.alignment import Denoiser, Method, PairErrors, Reference
from agfsync.alignment.batches import Batch, EncodedPairs, rows_of_step
from agfsync.alignment.checkpoints import Checkpoints
from agfsync.alignment.metrics import MetricsLog
from agfsync.alignment.noising import PairNoise, add_noise, draw_noise, min_snr_weight, squared_error, target
from agfsync.attention import trainable_attention
from agfsync.errors import DivergedError

Tell = Callable[[Mapping[str, float]], None]
"""Is told the figures of each step, as the log has them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train. `batch` is in pairs, `warmup` and `checkpoint_every` in steps."""

    steps: int
    batch: int
    learning_rate: float
    seed: int
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 0
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpoint_every: int = 50
    min_snr_gamma: float | None = None


def align(
    denoiser: Denoiser,
    reference: Reference,
    method: Method,
    pairs: EncodedPairs,
    plan: Plan,
    checkpoints: Checkpoints,
    log: Path,
    tell: Tell,
) -> None:
    """Trains `denoiser`'s network in place on `pairs`, from the last checkpoint if there is one.

    Each step's figures go to `log`, a JSON line each: step (1 for the first), the method's metrics, gradient_norm
    (before it is clipped), learning_rate and seconds.

    Raises:
        DivergedError: a loss or gradient isn't finite; the weights are those of the step before.
        StoreError: a checkpoint or the log can't be written.
    """
    parameters = {n: p for n, p in denoiser.network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=plan.weight_decay, fused=True)
    done = checkpoints.restore(parameters, optimizer)
    with MetricsLog(log, done) as metrics, trainable_attention(denoiser.device):
        for step in range(done, plan.steps):
            started = time.perf_counter()
            rate = learning_rate(plan, step)
            figures = _update(denoiser, reference, method, pairs, plan, step, rate, optimizer)
            line = {"step": step + 1, **figures, "learning_rate": rate, "seconds": time.perf_counter() - started}
            metrics.write(line)
            if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
                metrics.flush()
                checkpoints.save(step + 1, parameters, optimizer)
            tell(line)


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
) -> PairErrors:
    """The four errors of each pair; winner and loser in one batch, under one noise and timestep.

    With `min_snr_gamma` they are weighted by `min_snr_weight`.
    """
    noise_BCHW = noise.noise_PCHW.repeat(2, 1, 1, 1).to(denoiser.device)
    timesteps_B = noise.timesteps_P.repeat(2)
    alphas_B = denoiser.alphas_cumprod_N[timesteps_B].to(denoiser.device)
    timesteps_B = timesteps_B.to(denoiser.device)
    noisy_BCHW = add_noise(batch.latents_BCHW, noise_BCHW, alphas_B)
    target_BCHW = target(denoiser.prediction_type, batch.latents_BCHW, noise_BCHW, alphas_B)
    weight_B = _weight(denoiser.prediction_type, alphas_B, min_snr_gamma)

    def errors_of(network: nn.Module) -> Tensor:
        # A context of its own for each network: autocast keeps rounded weights for as long as the context lasts.
        with torch.autocast(denoiser.device.type, torch.bfloat16, enabled=precision == "bf16"):
            predicted_BCHW = denoiser.predict(network, noisy_BCHW, timesteps_B, batch.conditioning)
        return squared_error(predicted_BCHW, target_BCHW) * weight_B

    with reference() as frozen:
        base_B = errors_of(frozen)
    winner_P, loser_P = errors_of(denoiser.network).chunk(2)
    # A clone is an ordinary tensor again, which any method may use in what it differentiates.
    winner_reference_P, loser_reference_P = base_B.clone().chunk(2)
    return PairErrors(winner_P, loser_P, winner_reference_P, loser_reference_P)


def _weight(prediction_type: str, alphas_B: Tensor, min_snr_gamma: float | None) -> Tensor | float:
    return 1.0 if min_snr_gamma is None else min_snr_weight(prediction_type, alphas_B, min_snr_gamma)


def _update(
    denoiser: Denoiser,
    reference: Reference,
    method: Method,
    pairs: EncodedPairs,
    plan: Plan,
    step: int,
    rate: float,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """One step: batch, noise, errors, loss, gradient, weights. Returns the figures to log."""
    group = optimizer.param_groups[0]
    group["lr"] = rate
    batch = pairs.batch(rows_of_step(plan.seed, step, plan.batch, len(pairs)), denoiser.device)
    noise = draw_noise(plan.seed, step, _shape(batch), len(denoiser.alphas_cumprod_N))
    loss, metrics = method.loss(pair_errors(denoiser, reference, batch, noise, plan.precision, plan.min_snr_gamma))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(group["params"], plan.max_gradient_norm)
    _check("loss", loss, step, plan)
    _check("gradient", norm, step, plan)
    optimizer.step()
    return {name: value.item() for name, value in metrics.items()} | {"gradient_norm": norm.item()}


def _shape(batch: Batch) -> torch.Size:
    pairs, *rest = batch.latents_BCHW.shape
    return torch.Size([pairs // 2, *rest])


def _check(what: str, value: Tensor, step: int, plan: Plan) -> None:
    if not torch.isfinite(value):
        raise DivergedError(
            f"training diverged: the {what} is {value.item()} at step {step + 1}; lower training.learning_rate "
            f"(now {plan.learning_rate:g}) or training.method.beta, or set training.precision to fp32"
        )
