"""Sampling: from noise to latents, for any network, and the samplers by their names in a recipe.

Legend: B images in the batch, C H W latent channels, height, width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
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
from agfsync.models.architecture import Conditioning

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy latents, timestep, conditioning) -> prediction, float32"""
GuidedPredict = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents, timestep) -> prediction under guidance"""


# Latents aren't pixels, so they aren't clipped.
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}
_NEEDED = ("set_timesteps", "scale_model_input", "step", "init_noise_sigma", "timesteps", "order")
"""the attributes of a scheduler that Stable Diffusion's pipelines use"""
TRAINED = ("epsilon", "v_prediction")
"""the prediction types that can be trained"""
UNKEPT = "_use_default_values"
"""the key with diffusers' list of keys that were missing in a configuration file; `from_config` ignores these"""
TRIED = (2, 8, 8)
"""B, H, W of the latents for a trial of a scheduler"""


def draw_noise(sources: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Draw noise N(0, I) of `shape` from each source, on the CPU: neither batch nor device affects it."""
    return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources])


def encode_with_negative(
    encode: Callable[[Sequence[str]], Conditioning],
    prompts: Sequence[str],
    negative: str,
    encode_negative: Callable[[str], Conditioning] | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Return the conditioning of the prompts and of `negative`; B rows each. Equal prompts are encoded once.

    `encode_negative` returns one row; without it `negative` is encoded like the prompts.
    """
    distinct = list(dict.fromkeys(prompts))
    said = encode([*distinct, negative] if encode_negative is None else distinct)
    unsaid = (
        {name: tensor[-1:] for name, tensor in said.items()} if encode_negative is None else encode_negative(negative)
    )
    rows_B = [distinct.index(prompt) for prompt in prompts]
    with_prompt = {name: tensor[rows_B] for name, tensor in said.items()}
    without = {name: tensor.expand_as(with_prompt[name]) for name, tensor in unsaid.items()}
    return with_prompt, without


def draw_embedding_noise(
    sources: Sequence[torch.Generator], conditioning: Conditioning, embeddings: Sequence[str], sigma: float
) -> dict[str, Tensor]:
    """Draw n ~ N(0, `sigma`^2 I) of Eq. 1 for each of the `embeddings` in `conditioning`, in order."""
    clean = {name: conditioning[name] for name in embeddings}
    return {name: sigma * draw_noise(sources, c.shape[1:]).to(c.device) for name, c in clean.items()}


def add_embedding_noise(conditioning: Conditioning, noise: Mapping[str, Tensor]) -> Conditioning:
    """Return the conditioning with noise: c + n."""
    return {name: tensor + noise[name] if name in noise else tensor for name, tensor in conditioning.items()}


def guide(
    predict: Predict,
    with_prompt: Conditioning,
    without: Conditioning,
    guidance: float,
    rescale: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> GuidedPredict:
    """Return a function that predicts under classifier-free guidance: without + guidance * (with - without).

    With a scale of 1 or less, it makes no prediction without the prompt. `rescale` takes the guided prediction and the
    prediction with the prompt, and returns the final prediction.
    """
    if guidance <= 1:
        return lambda noisy_BCHW, timestep: predict(noisy_BCHW, timestep, with_prompt)
    both = {name: torch.cat([without[name], with_prompt[name]]) for name in with_prompt}

    def predict_guided(noisy_BCHW: Tensor, timestep: Tensor) -> Tensor:
        without_BCHW, with_BCHW = predict(torch.cat([noisy_BCHW, noisy_BCHW]), timestep, both).chunk(2)
        guided_BCHW = without_BCHW + guidance * (with_BCHW - without_BCHW)
        return guided_BCHW if rescale is None else rescale(guided_BCHW, with_BCHW)

    return predict_guided


def switch_models(first: GuidedPredict, then: GuidedPredict, timesteps: Tensor, from_step: int) -> GuidedPredict:
    """Return a function that predicts by `first` in the first `from_step` falling `timesteps`, else by `then`."""

    def predict_guided(noisy_BCHW: Tensor, timestep: Tensor) -> Tensor:
        return (then if timestep <= timesteps[from_step] else first)(noisy_BCHW, timestep)

    return predict_guided


def denoise(
    scheduler: Any,
    predict: GuidedPredict,
    noise_BCHW: Tensor,
    sources: Sequence[torch.Generator],
    *,
    indexed: bool = False,
    before_step: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the latents that `scheduler` samples from noise N(0, I) on its timesteps.

    `sources` provide further noise, one for each image. If `indexed`, the scheduler's steps are counted from 0 (SDXL's
    pipeline); otherwise schedulers with an index look up the first timestep (SD's). `before_step` takes the number and
    the latents of each step, and returns the latents from which the step starts.
    """
    accepted = inspect.signature(scheduler.step).parameters
    # eta is DDIM's: diffusers' pipelines pass 0 to every scheduler that takes it, whatever its own default.
    given = {"generator": list(sources), "eta": 0.0}
    noise = {name: value for name, value in given.items() if name in accepted}
    if indexed and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    latents_BCHW: Tensor = noise_BCHW * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        if before_step is not None:
            latents_BCHW = before_step(step, latents_BCHW)
        predicted_BCHW = predict(scheduler.scale_model_input(latents_BCHW, timestep), timestep)
        latents_BCHW = scheduler.step(predicted_BCHW, timestep, latents_BCHW, **noise, return_dict=False)[0]
    return latents_BCHW


def denoise_flow(
    scheduler: Any, predict: GuidedPredict, noise_BCHW: Tensor, sources: Sequence[torch.Generator]
) -> Tensor:
    """Return the latents that a flow-matching `scheduler` samples from noise: it scales neither noise nor input."""
    latents_BCHW = noise_BCHW
    for timestep in scheduler.timesteps:
        predicted_BCHW = predict(latents_BCHW, timestep)
        latents_BCHW = scheduler.step(predicted_BCHW, timestep, latents_BCHW, generator=list(sources)).prev_sample
    return latents_BCHW


def make_scheduler(saved: Any, name: str, steps: int, channels: int = 4, predicted: int | None = None) -> Any:
    """Return the sampler `name`; "model" is a copy of the pipeline's own scheduler `saved`, which is not changed.

    The sampler is tried on small latents with `channels` channels and a prediction with `predicted` (by default equal).

    Raises:
        ModelError: it doesn't support this number of steps, or doesn't draw the same image from the same seed.
    """
    missing = [each for each in _NEEDED if not hasattr(saved, each)]
    if missing:
        raise ModelError(
            f"the model's scheduler is a {_name_scheduler(saved)}, which has no {', '.join(missing)}: this type of"
            f" model needs one of a diffusion model, such as {DDIMScheduler.__name__} or "
            f"{EulerDiscreteScheduler.__name__}"
        )
    if name not in SCHEDULERS:
        scheduler = deepcopy(saved)
    elif not hasattr(saved, "alphas_cumprod"):
        raise ModelError(
            f"the scheduler {name} can't take the place of the model's {_name_scheduler(saved)}, which has no betas: "
            f"set scheduler to model"
        )
    else:
        kind, settings = SCHEDULERS[name]
        scheduler = kind.from_config(_correct_configuration(saved), **settings)
    _try_scheduler(scheduler, name, steps, (channels, predicted or channels))
    return scheduler


def find_schedule_obstacle(scheduler: Any) -> str | None:
    """Return the reason why a model can't be trained with the noise schedule of its `scheduler`; None if it can."""
    if not hasattr(scheduler, "alphas_cumprod"):
        name = _name_scheduler(scheduler)
        return f"its scheduler, {name}, has no alphas_cumprod, the noise schedule that Eq. 8 is defined on"
    predicts = scheduler.config.get("prediction_type", "epsilon")
    if predicts not in TRAINED:
        return f"it predicts '{predicts}', and only {' and '.join(TRAINED)} can be trained"
    return None


def _correct_configuration(saved: Any) -> dict[str, Any]:
    """Return the configuration of `saved`, with the pipeline's corrections marked as set.

    `from_config` ignores keys that the file lacked, so that another class uses its own defaults. A key that the
    pipeline has set since (`steps_offset`, `clip_sample`) differs from the default of the class, and isn't ignored.
    """
    config = dict(saved.config)
    fresh = type(saved)().config
    unset = [key for key in config.get(UNKEPT, ()) if config.get(key) == fresh.get(key)]
    return {**config, UNKEPT: unset}


def _try_scheduler(scheduler: Any, name: str, steps: int, channels: tuple[int, int]) -> None:
    """Draw tiny latents twice with a copy of `scheduler`, under different global seeds.

    Raises:
        ModelError: it fails, its latents aren't finite, or it draws noise from another source than the images' seeds.
    """
    what = _name_scheduler(scheduler) if name not in SCHEDULERS else f"{name} ({_name_scheduler(scheduler)})"
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
            f"the scheduler {what} draws noise that no seed of an image gives, so that none can be drawn again: "
            f"choose another"
        )


def _check_terminal_snr(scheduler: Any, what: str) -> None:
    """Check that a model that predicts the noise doesn't sample at a timestep without signal (alpha-bar = 0).

    The clean latents are (x - sqrt(1 - alpha-bar) e) / sqrt(alpha-bar) (Lin et al. 2023, arXiv:2305.08891).
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


def _name_scheduler(scheduler: Any) -> str:
    return type(scheduler).__name__
