"""The forward process: noisy latents and what the network should predict from them. Pure functions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.records import seed_of


@dataclass(frozen=True, slots=True)
class PairNoise:
    """One noise (P, C, H, W) ~ N(0, I) and one timestep (P,) for each pair, which its winner and its loser share."""

    noise_PCHW: Tensor
    timesteps_P: Tensor


def draw_noise(seed: int, step: int, shape: torch.Size, timesteps: int) -> PairNoise:
    """The noise of step `step` for pairs of `shape`, from (seed, step) alone and so the same after a resume."""
    generator = torch.Generator().manual_seed(seed_of(seed, "noise", step))
    return PairNoise(
        noise_PCHW=torch.randn(shape, generator=generator),
        timesteps_P=torch.randint(timesteps, (shape[0],), generator=generator),
    )


def add_noise(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) e, with a = `alphas_cumprod_B` at each sample's timestep."""
    signal, noise = _scales(alphas_cumprod_B)
    return signal * latents_BCHW + noise * noise_BCHW


def target(prediction_type: str, latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """What a perfect network predicts: e ("epsilon"), or sqrt(a) e - sqrt(1 - a) x_0 ("v_prediction").

    Raises:
        ModelError: the model predicts something else.
    """
    if prediction_type == "epsilon":
        return noise_BCHW
    if prediction_type == "v_prediction":
        signal, noise = _scales(alphas_cumprod_B)
        return signal * noise_BCHW - noise * latents_BCHW
    raise ModelError(f"a model that predicts '{prediction_type}' can't be trained: only epsilon and v_prediction can")


def squared_error(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Each sample's mean squared error over C, H, W, in float32: (B,)."""
    return (predicted_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3))


def _scales(alphas_cumprod_B: Tensor) -> tuple[Tensor, Tensor]:
    alphas_B111 = alphas_cumprod_B.view(-1, 1, 1, 1)
    return alphas_B111.sqrt(), (1 - alphas_B111).sqrt()
