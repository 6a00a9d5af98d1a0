"""Samplers by the recipe's names, on the noise schedule of the model's training, and what they can't do.

Legend: B images in the batch, C H W latent channels, height, width, N diffusion timesteps.
"""

from copy import deepcopy
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from agfsync.errors import ModelError, model_errors
from agfsync.models.sampling import denoise

# Latents aren't pixels: nothing clips them.
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}
NEEDED = ("set_timesteps", "scale_model_input", "step", "init_noise_sigma", "timesteps", "order")
"""what the pipelines of Stable Diffusion ask of a scheduler"""
TRAINED = ("epsilon", "v_prediction")
"""predictions that can be trained"""
UNKEPT = "_use_default_values"
"""where diffusers notes which keys a configuration file lacked; `from_config` leaves those out"""
TRIED = (2, 8, 8)
"""B, H, W of the latents that a scheduler is tried on"""


def make_scheduler(saved: Any, name: str, steps: int, channels: int = 4, predicted: int | None = None) -> Any:
    """Return the sampler `name`; "model" is a copy of the one that the pipeline has. `saved` stays as it is.

    It is tried on small latents of `channels` channels, of which `predicted` (default: as many) are predicted.

    Raises:
        ModelError: it can't make so many steps, or isn't one that draws the same picture from the same seed.
    """
    missing = [each for each in NEEDED if not hasattr(saved, each)]
    if missing:
        raise ModelError(
            f"the model's scheduler is a {_kind(saved)}, which has no {', '.join(missing)}: this type of generator "
            f"needs one of a diffusion model, such as {DDIMScheduler.__name__} or {EulerDiscreteScheduler.__name__}"
        )
    if name not in SCHEDULERS:
        scheduler = deepcopy(saved)
    elif not hasattr(saved, "alphas_cumprod"):
        raise ModelError(
            f"the scheduler {name} can't take the place of the model's {_kind(saved)}, which has no betas: "
            f"set scheduler to model"
        )
    else:
        kind, settings = SCHEDULERS[name]
        scheduler = kind.from_config(_corrected(saved), **settings)
    _try(scheduler, name, steps, (channels, predicted or channels))
    return scheduler


def why_untrainable(scheduler: Any) -> str | None:
    """Return why a model can't be trained with the noise schedule of its `scheduler`, None if it can."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return f"its scheduler, {_kind(scheduler)}, has no alphas_cumprod, the noise schedule that Eq. 8 is defined on"
    predicts = scheduler.config.get("prediction_type", "epsilon")
    if predicts not in TRAINED:
        return f"it predicts '{predicts}', and only {' and '.join(TRAINED)} can be trained"
    return None


def _corrected(saved: Any) -> dict[str, Any]:
    """Return the configuration of `saved` in which what its pipeline has corrected counts as given.

    A key that the file lacked is left out, so that another class takes its own default; one that the pipeline has set
    since (`steps_offset`, `clip_sample`) differs from the default of the class, and is kept.
    """
    config = dict(saved.config)
    fresh = type(saved)().config
    unset = [key for key in config.get(UNKEPT, ()) if config.get(key) == fresh.get(key)]
    return {**config, UNKEPT: unset}


def _try(scheduler: Any, name: str, steps: int, channels: tuple[int, int]) -> None:
    """Draw tiny latents twice with a copy of `scheduler`, under different global seeds.

    Raises:
        ModelError: it fails, makes something that isn't numbers, or heeds another source of noise than a seed's.
    """
    what = _kind(scheduler) if name not in SCHEDULERS else f"{name} ({_kind(scheduler)})"
    tried = deepcopy(scheduler)
    with model_errors(f"the scheduler {name} can't make {steps} steps"):
        tried.set_timesteps(steps)
    _check_terminal_snr(tried, what)
    with model_errors(f"the scheduler {what} can't draw"):
        first, second = (_tiny_latents(deepcopy(tried), channels, seed) for seed in (0, 1))
    if not torch.isfinite(first).all():
        raise ModelError(f"the scheduler {what} makes something that isn't numbers in {steps} steps: choose another")
    if not torch.equal(first, second):
        raise ModelError(
            f"the scheduler {what} draws noise that no seed of a picture gives, so that none can be drawn again: "
            f"choose another"
        )


def _check_terminal_snr(scheduler: Any, what: str) -> None:
    """See that a noise prediction isn't asked for where nothing is left of the picture (alpha-bar = 0).

    The picture is (x - sqrt(1 - alpha-bar) e) / sqrt(alpha-bar) there (Lin et al. 2023, arXiv:2305.08891).
    """
    alphas_N = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alphas_N, Tensor) or scheduler.config.get("prediction_type", "epsilon") != "epsilon":
        return
    visited = torch.as_tensor(scheduler.timesteps).long().clamp(0, len(alphas_N) - 1).cpu()
    if (alphas_N.cpu()[visited] == 0).any():
        by = "rescale_betas_zero_snr" if scheduler.config.get("rescale_betas_zero_snr") else "by its betas"
        raise ModelError(
            f"the scheduler {what} begins at zero terminal SNR ({by}), where a prediction of "
            f"the noise (prediction_type epsilon) can't be divided by a signal of 0: set prediction_type v_prediction "
            f"in its configuration if the model was trained so, else rescale_betas_zero_snr false"
        )


def _tiny_latents(scheduler: Any, channels: tuple[int, int], seed: int) -> Tensor:
    rows, height, width = TRIED
    sources = [torch.Generator().manual_seed(row) for row in range(rows)]
    start = torch.randn(rows, channels[0], height, width, generator=torch.Generator().manual_seed(7))
    nothing = torch.zeros(rows, channels[1], height, width)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return denoise(scheduler, lambda noisy, timestep: nothing, start, sources)


def _kind(scheduler: Any) -> str:
    return type(scheduler).__name__
