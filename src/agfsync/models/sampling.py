"""From noise to latents, whatever the network. Pure but for the scheduler, which counts its steps.

Legend: B images in the batch, C H W latent channels, height, width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agfsync.models.architecture import Conditioning

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy latents, timestep, conditioning) -> the prediction, float32"""
Guided = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents, timestep) -> the prediction under guidance"""


def draw_noise(sources: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Each source's next N(0, I) of `shape`, drawn on the CPU so that no batch or device has a say in it."""
    return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources])


def encoded(
    encode: Callable[[Sequence[str]], Conditioning],
    prompts: Sequence[str],
    negative: str,
    encode_negative: Callable[[str], Conditioning] | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Return what the prompts say, and what `negative` says; B rows each. Equal prompts are encoded once.

    `encode_negative` gives one row; without it `negative` is encoded as the prompts are.
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


def embedding_noise_of(
    sources: Sequence[torch.Generator], conditioning: Conditioning, embeddings: Sequence[str], sigma: float
) -> dict[str, Tensor]:
    """n ~ N(0, `sigma`^2 I) of Eq. 1, drawn in turn for each of `embeddings` in the `conditioning`."""
    clean = {name: conditioning[name] for name in embeddings}
    return {name: sigma * draw_noise(sources, c.shape[1:]).to(c.device) for name, c in clean.items()}


def noised(conditioning: Conditioning, noise: Mapping[str, Tensor]) -> Conditioning:
    """c + n."""
    return {name: tensor + noise[name] if name in noise else tensor for name, tensor in conditioning.items()}


def guided(predict: Predict, with_prompt: Conditioning, without: Conditioning, guidance: float) -> Guided:
    """The prediction without the prompt, moved towards that with it and past it by the guidance scale.

    A scale of 1 or less asks for no second prediction.
    """
    if guidance <= 1:
        return lambda noisy_BCHW, timestep: predict(noisy_BCHW, timestep, with_prompt)
    both = {name: torch.cat([without[name], with_prompt[name]]) for name in with_prompt}

    def predicted(noisy_BCHW: Tensor, timestep: Tensor) -> Tensor:
        without_BCHW, with_BCHW = predict(torch.cat([noisy_BCHW, noisy_BCHW]), timestep, both).chunk(2)
        return without_BCHW + guidance * (with_BCHW - without_BCHW)

    return predicted


def in_turn(first: Guided, then: Guided, timesteps: Tensor, from_step: int) -> Guided:
    """`first` for the first `from_step` of the falling `timesteps`, `then` for the others."""

    def predicted(noisy_BCHW: Tensor, timestep: Tensor) -> Tensor:
        return (then if timestep <= timesteps[from_step] else first)(noisy_BCHW, timestep)

    return predicted


def denoise(
    scheduler: Any,
    predict: Guided,
    noise_BCHW: Tensor,
    sources: Sequence[torch.Generator],
    *,
    indexed: bool = False,
) -> Tensor:
    """Return the latents that `scheduler` makes of noise N(0, I) on the timesteps it is set to.

    `sources` give it more noise, one an image. `indexed`: its steps are counted from 0 (SDXL's pipeline); else the
    first is looked up by its timestep, where the scheduler does so (SD's).
    """
    accepted = inspect.signature(scheduler.step).parameters
    # eta is DDIM's: 0 is what diffusers' pipelines give to every scheduler that takes one, whatever its own default.
    given = {"generator": list(sources), "eta": 0.0}
    noise = {name: value for name, value in given.items() if name in accepted}
    if indexed and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    latents_BCHW: Tensor = noise_BCHW * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        predicted_BCHW = predict(scheduler.scale_model_input(latents_BCHW, timestep), timestep)
        latents_BCHW = scheduler.step(predicted_BCHW, timestep, latents_BCHW, **noise, return_dict=False)[0]
    return latents_BCHW


def flow(scheduler: Any, predict: Guided, noise_BCHW: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """The latents that a flow-matching `scheduler` makes of noise: it neither scales them nor what the network sees."""
    latents_BCHW = noise_BCHW
    for timestep in scheduler.timesteps:
        predicted_BCHW = predict(latents_BCHW, timestep)
        latents_BCHW = scheduler.step(predicted_BCHW, timestep, latents_BCHW, generator=list(sources)).prev_sample
    return latents_BCHW
