"""The one training loop: seeded, resumable, an exponential moving average of the weights kept beside them.

Everything random in a step comes from its number, so a run that was stopped goes on as if it never had been.
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agfsync.errors import DivergedError, ModelError
from agfsync.training.attention import trainable_attention


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast a model learns."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    seed: int = 0
    ema: float = 0.998
    weight_decay: float = 0.01
    warmup: int = 100
    checkpoint_every: int = 100


Loss = Callable[[random.Random], tuple[Tensor, dict[str, float]]]
"""Draws a batch from the generator it is given; returns the loss and figures to show."""
Tell = Callable[[int, dict[str, float]], None]


def device() -> torch.device:
    """Where training runs: the accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """Return bf16 autocast where that is fast (four times as fast as fp32 for small networks), else one turned off."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=fast_bf16())


def fast_bf16() -> bool:
    """Return True if there is an accelerator, or if the processor has instructions for bf16 (AVX512-BF16 or AMX).

    A processor without them computes bf16 20 times slower than fp32.
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "is_amx_tile_supported")
    return device().type != "cpu" or any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))


def train(plan: Plan, model: nn.Module, loss: Loss, folder: Path, tell: Tell) -> nn.Module:
    """Trains `model` in place, going on from `folder`'s checkpoint if there is one; leaves the averaged weights in it.

    Raises:
        DivergedError: the loss isn't finite.
        ModelError: the checkpoint was made by another plan.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    average = {n: p.detach().clone() for n, p in parameters.items()}
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99)
    )
    checkpoint = _checkpoint(folder, plan)
    first = steps_done(folder, plan)
    if first:
        _load(checkpoint, parameters, average, optimizer)
    model.train()
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * _rate(step, plan)
        torch.manual_seed(plan.seed * 1_000_003 + step)
        with trainable_attention(device()):
            value, figures = loss(random.Random(f"{plan.name}/{plan.seed}/{step}"))
        if not torch.isfinite(value):
            raise DivergedError(f"training {plan.name}: the loss is {value.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        decay = min(plan.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()], 1 - decay)
        tell(step + 1, {"loss": value.item()} | figures)
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
            _save(checkpoint, plan, step + 1, parameters, average, optimizer)
    for name, parameter in parameters.items():
        parameter.data.copy_(average[name])
    return model.eval()


def steps_done(folder: Path, plan: Plan) -> int:
    """How many of `plan`'s steps `folder`'s checkpoint has seen.

    Raises:
        ModelError: the checkpoint was made by another plan.
    """
    checkpoint = _checkpoint(folder, plan)
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    if metadata.get("plan") != _identity(plan):
        raise ModelError(f"{checkpoint} was made by another plan of training: remove it to begin again")
    return int(metadata["step"])


def _identity(plan: Plan) -> str:
    """What of `plan` decides the weights: all but how often they are saved."""
    return json.dumps({name: value for name, value in asdict(plan).items() if name != "checkpoint_every"})


def _checkpoint(folder: Path, plan: Plan) -> Path:
    return folder / f"{plan.name}.checkpoint.safetensors"


def _rate(step: int, plan: Plan) -> float:
    """Linear warm-up, then a straight line down to a twentieth, which small models like as well as a cosine."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    return max(0.05, 1 - (step - plan.warmup) / max(1, plan.steps - plan.warmup))


def _save(
    path: Path,
    plan: Plan,
    step: int,
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.AdamW,
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors |= {f"weight.{name}": parameter.detach().contiguous(), f"average.{name}": average[name].contiguous()}
        tensors |= {f"{moment}.{name}": state[moment].contiguous() for moment in ("exp_avg", "exp_avg_sq")}
    beside = path.with_suffix(".partial")
    metadata = {"step": str(step), "plan": _identity(plan)}
    save_file({k: v.clone() for k, v in tensors.items()}, beside, metadata=metadata)
    beside.replace(path)


def _load(
    path: Path, parameters: dict[str, nn.Parameter], average: dict[str, Tensor], optimizer: torch.optim.AdamW
) -> None:
    """Puts the checkpoint's weights and moments in place."""
    with safe_open(path, framework="pt", device=str(device())) as file:
        step = float(file.metadata()["step"])
        for name, parameter in parameters.items():
            parameter.data.copy_(file.get_tensor(f"weight.{name}"))
            average[name].copy_(file.get_tensor(f"average.{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(step),
                "exp_avg": file.get_tensor(f"exp_avg.{name}"),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}"),
            }
