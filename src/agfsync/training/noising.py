"""The forward process: noisy latents and what the network should predict from them. Pure functions."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.records import seed_of


@dataclass(frozen=True, slots=True)
class PairNoise:
    """One noise (P, C, H, W) ~ N(0, I) and one timestep (P,) for each pair, which its winner and its loser share."""

    noise_PCHW: Tensor
    timesteps_P: Tensor

    def of(self, rows: Tensor) -> Self:
        """Those of the pairs at `rows`."""
        return type(self)(self.noise_PCHW[rows], self.timesteps_P[rows])


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
    raise _cant_be_trained(prediction_type)


def squared_error(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Each sample's mean squared error over C, H, W, in float32: (B,)."""
    return (predicted_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3))


def epsilon_weight(prediction_type: str, alphas_cumprod_B: Tensor) -> Tensor:
    """Return what a network's squared errors are multiplied with to be those of the noise, float32 (B,).

    With a = `alphas_cumprod_B` a predicted v stands for the noise e = sqrt(a) v + sqrt(1 - a) x_t (Salimans and Ho
    2022, arXiv:2202.00512, appendix D). x_t is known, so |e' - e|^2 = a |v' - v|^2: the weight is a for "v_prediction"
    and 1 for "epsilon".

    Raises:
        ModelError: the model predicts something else.
    """
    if prediction_type == "epsilon":
        return torch.ones_like(alphas_cumprod_B)
    if prediction_type == "v_prediction":
        return alphas_cumprod_B
    raise _cant_be_trained(prediction_type)


def min_snr_weight(prediction_type: str, alphas_cumprod_B: Tensor, gamma: float) -> Tensor:
    """What to multiply squared errors with, float32 (B,): min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556, 3.4).

    With SNR = a / (1 - a) it is min(SNR, gamma) for a network that predicts x_0, and so min(SNR, gamma) / SNR for the
    noise ("epsilon") and min(SNR, gamma) / (SNR + 1) for "v_prediction". In 0..1, and a number also where a schedule
    ends without any signal (a = 0). The paper's gamma is 5.

    Raises:
        ModelError: the model predicts something else.
    """
    snr_B = alphas_cumprod_B / (1 - alphas_cumprod_B)
    if prediction_type == "epsilon":
        return (gamma / snr_B).clamp(max=1)
    if prediction_type == "v_prediction":
        return snr_B.clamp(max=gamma) / (snr_B + 1)
    raise _cant_be_trained(prediction_type)


def _cant_be_trained(prediction_type: str) -> ModelError:
    return ModelError(f"a model that predicts '{prediction_type}' can't be trained: only epsilon and v_prediction can")


def _scales(alphas_cumprod_B: Tensor) -> tuple[Tensor, Tensor]:
    alphas_B111 = alphas_cumprod_B.view(-1, 1, 1, 1)
    return alphas_B111.sqrt(), (1 - alphas_B111).sqrt()
