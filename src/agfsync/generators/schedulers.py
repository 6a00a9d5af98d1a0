"""Samplers by the recipe's names, on the noise schedule of the model's training."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

from agfsync.errors import ModelError

# Latents aren't pixels: nothing clips them.
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}


def make_scheduler(saved: Any, name: str, steps: int) -> Any:
    """The sampler `name`; "model" is the one that the model was saved with. A new one, whatever `saved` is in use for.

    Raises:
        ModelError: it can't make so many steps.
    """
    kind, settings = SCHEDULERS.get(name, (type(saved), {}))
    scheduler = kind.from_config(saved.config, **settings)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as failure:
        fault = " ".join(str(failure).split())
        raise ModelError(f"the scheduler {name} can't make {steps} steps: {fault[:200]}") from failure
    return scheduler
