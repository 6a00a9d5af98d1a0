"""Noise schedules: adding noise to clean latents, the targets of the network, and the sampling steps.

A schedule is constant and its methods are pure functions: for training, for estimates of the clean latents, and for
sampling steps with a known probability density.

Legend: B samples in the batch, C H W latent channels, height, width, N timesteps of a diffusion schedule. A time is
one number for each sample: the integer timestep of a diffusion schedule, or a flow's share of noise in 0..1.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import exp, pi, sin
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from agfsync.errors import ModelError

LossSpace = Literal["model", "epsilon"]
"""The quantity of a squared-error loss: the network's prediction, or the noise that it implies."""
TimeSampling = Literal["uniform", "logit-normal"]
"""The distribution of a flow's training times."""
TRAINABLE_PREDICTIONS = ("epsilon", "v_prediction")
MeanShift = Callable[[Any, int, int], float | None]
"""(a scheduler's configuration, the network's tokens of an image, steps) -> mu, which shifts the sampling times; None
if the scheduler has a fixed shift"""
CLEAN_END = -1
"""The last time in a diffusion schedule's `grid`, after the last step."""


class NoiseSchedule(Protocol):
    """A forward process and its reverse; times are float32 or int64 (B,), latents float32 (B, C, H, W)."""

    @property
    def prediction_type(self) -> str:
        """The quantity that the network predicts: "epsilon", "v_prediction" or "velocity"."""
        ...

    def times(self, source: torch.Generator, count: int) -> Tensor:
        """Draw the times of `count` training samples."""
        ...

    def noisy(self, clean_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return the noisy latents at `times_B`, (B, C, H, W): a mix of clean latents and noise."""
        ...

    def target(self, clean_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return the target of the prediction, (B, C, H, W)."""
        ...

    def weight(self, times_B: Tensor, min_snr_gamma: float | None = None, space: LossSpace = "model") -> Tensor:
        """Return the weights of the prediction's squared errors, float32 (B,); ones by default.

        With `space` "epsilon", the weighted errors are those of the noise. With `min_snr_gamma`, they are min(SNR,
        gamma) times the error of the clean latents, in either space (Hang et al. 2023, arXiv:2303.09556, 3.4); the
        paper's gamma is 5.
        """
        ...

    def clean(self, predicted_BCHW: Tensor, noisy_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return the clean latents that a prediction implies."""
        ...

    def grid(self, steps: int) -> Tensor:
        """Return the `steps` + 1 times of a sampling, from the most noise to none."""
        ...

    def transition(
        self, predicted_BCHW: Tensor, noisy_BCHW: Tensor, times_B: Tensor, next_times_B: Tensor, eta: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean (B, C, H, W) and the standard deviation (B, 1, 1, 1) of one stochastic sampling step.

        `eta` scales the noise; 0 makes the step deterministic. A step with standard deviation 0 has no density.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DiffusionSchedule:
    """Variance-preserving diffusion: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, with a_t falling over N timesteps.

    `spacing` and `offset` set the sampling timesteps as in diffusers' DDIM; `transition` is a step of DDIM.

    Raises:
        ModelError: the network predicts neither the noise nor v.
    """

    alphas_cumprod_N: Tensor
    """The signal's share of the variance at each timestep, a_t: float32 in 0..1, falling."""
    prediction_type: str = "epsilon"
    spacing: str = "leading"
    offset: int = 0
    final_alpha: float = 1.0
    """The signal's share of the variance after the last sampling step."""

    def __post_init__(self) -> None:
        if self.prediction_type not in TRAINABLE_PREDICTIONS:
            known = " and ".join(TRAINABLE_PREDICTIONS)
            raise ModelError(f"a model that predicts '{self.prediction_type}' can't be trained: only {known} can")

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Self:
        """Return the schedule of a diffusers scheduler that has `alphas_cumprod`."""
        config, alphas_N = scheduler.config, scheduler.alphas_cumprod.float().cpu()
        return cls(
            alphas_N,
            str(config.get("prediction_type", "epsilon")),
            config.get("timestep_spacing", "leading"),
            int(config.get("steps_offset", 0)),
            1.0 if config.get("set_alpha_to_one", True) else float(alphas_N[0]),
        )

    def times(self, source: torch.Generator, count: int) -> Tensor:
        """Draw uniform timesteps, int64 (B,)."""
        return torch.randint(len(self.alphas_cumprod_N), (count,), generator=source)

    def noisy(self, clean_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return x_t = sqrt(a) x_0 + sqrt(1 - a) e."""
        signal, noise = self._compute_scales(times_B)
        return signal * clean_BCHW + noise * noise_BCHW

    def target(self, clean_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return e, or v = sqrt(a) e - sqrt(1 - a) x_0 (Salimans and Ho 2022, arXiv:2202.00512, appendix D)."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        signal, noise = self._compute_scales(times_B)
        return signal * noise_BCHW - noise * clean_BCHW

    def weight(self, times_B: Tensor, min_snr_gamma: float | None = None, space: LossSpace = "model") -> Tensor:
        """Return the weights of the squared errors, float32 (B,).

        A predicted v implies the noise sqrt(a) v + sqrt(1 - a) x_t, where x_t is known: |e' - e|^2 = a |v' - v|^2.
        With SNR = a / (1 - a), the min-SNR weight of the noise's error is min(SNR, gamma) / SNR, and that of v's error
        min(SNR, gamma) / (SNR + 1). Both are in 0..1 and finite, even without signal (a = 0).
        """
        alphas_B = self._find_alphas(times_B)
        if min_snr_gamma is not None:
            snr_B = alphas_B / (1 - alphas_B)
            if self.prediction_type == "epsilon":
                return (min_snr_gamma / snr_B).clamp(max=1)
            return snr_B.clamp(max=min_snr_gamma) / (snr_B + 1)
        in_noise = space == "epsilon" and self.prediction_type == "v_prediction"
        return alphas_B if in_noise else torch.ones_like(alphas_B)

    def clean(self, predicted_BCHW: Tensor, noisy_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return x_0 = (x_t - sqrt(1 - a) e) / sqrt(a), or sqrt(a) x_t - sqrt(1 - a) v."""
        signal, noise = self._compute_scales(times_B)
        if self.prediction_type == "epsilon":
            return (noisy_BCHW - noise * predicted_BCHW) / signal
        return signal * noisy_BCHW - noise * predicted_BCHW

    def grid(self, steps: int) -> Tensor:
        """Return DDIM's timesteps and `CLEAN_END`, int64 (steps + 1,)."""
        from diffusers import DDIMScheduler

        sampler = DDIMScheduler(
            len(self.alphas_cumprod_N), timestep_spacing=self.spacing, steps_offset=self.offset, clip_sample=False
        )
        sampler.set_timesteps(steps)
        return torch.cat([sampler.timesteps, torch.tensor([CLEAN_END])])

    def transition(
        self, predicted_BCHW: Tensor, noisy_BCHW: Tensor, times_B: Tensor, next_times_B: Tensor, eta: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of a DDIM step (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16).

        The step to `CLEAN_END` is deterministic if `final_alpha` is 1.
        """
        signal, noise = self._compute_scales(times_B)
        clean_BCHW = self.clean(predicted_BCHW, noisy_BCHW, times_B)
        noise_BCHW = predicted_BCHW
        if self.prediction_type == "v_prediction":
            noise_BCHW = signal * predicted_BCHW + noise * noisy_BCHW
        alpha, next_alpha = (_per_sample(self._find_alphas(each)) for each in (times_B, next_times_B))
        std = eta * ((1 - next_alpha) / (1 - alpha) * (1 - alpha / next_alpha)).clamp(min=0).sqrt()
        mean_BCHW = next_alpha.sqrt() * clean_BCHW + (1 - next_alpha - std**2).clamp(min=0).sqrt() * noise_BCHW
        return mean_BCHW, std

    def _find_alphas(self, times_B: Tensor) -> Tensor:
        """Return a at each time; at `CLEAN_END` this is `final_alpha`."""
        return torch.cat([self.alphas_cumprod_N, torch.tensor([self.final_alpha])]).to(times_B.device)[times_B]

    def _compute_scales(self, times_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a) and sqrt(1 - a), each (B, 1, 1, 1)."""
        alphas_B111 = _per_sample(self._find_alphas(times_B))
        return alphas_B111.sqrt(), (1 - alphas_B111).sqrt()


def mean_shift(config: Any, tokens: int, steps: int = 0) -> float | None:
    """Return mu, which shifts the times for an image of `tokens` tokens; None if the shift doesn't depend on the size.

    mu is linear in `tokens`, through (`base_image_seq_len`, `base_shift`) and (`max_image_seq_len`, `max_shift`), as in
    FLUX.1.
    """
    if not config.get("use_dynamic_shifting"):
        return None
    rise = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return float(config.base_shift + rise * (tokens - config.base_image_seq_len))


@dataclass(frozen=True, slots=True, eq=False)
class FlowSchedule:
    """Flow matching: x_s = (1 - s) x_0 + s e; the network predicts the velocity e - x_0; s is 1 in pure noise.

    `scheduler` is the model's, such as a `FlowMatchEulerDiscreteScheduler`, which shifts s towards noise. If its shift
    depends on the size of the image, `shift` gives it for `tokens`, the number of the network's tokens of an image, and
    a number of steps; training times use `steps`, the usual number. `sampling` is the distribution of the training
    times before the shift: uniform, or logit-normal(0, 1), which favours the middle (Esser et al. 2024,
    arXiv:2403.03206, 3.1). With `even_sigmas`, the sampling times before the shift are evenly spaced from 1 to
    1 / steps; otherwise they are the scheduler's own. `training_shift` replaces the scheduler's shift in the training
    times. `stochastic_step` is the kind of noise that `transition` adds.
    """

    scheduler: Any
    tokens: int = 0
    sampling: TimeSampling = "logit-normal"
    even_sigmas: bool = False
    stochastic_step: Literal["sde", "cps"] = "sde"
    shift: MeanShift = mean_shift
    steps: int = 28
    training_shift: float | None = None

    @property
    def prediction_type(self) -> str:
        """The quantity that the network predicts: always "velocity"."""
        return "velocity"

    @property
    def timesteps(self) -> int:
        """The timestep of pure noise that the network takes, such as 1000."""
        return int(self.scheduler.config.num_train_timesteps)

    def times(self, source: torch.Generator, count: int) -> Tensor:
        """Draw s, float32 (B,) in 0..1."""
        if self.sampling == "uniform":
            drawn_B = torch.rand(count, generator=source)
        else:
            drawn_B = torch.randn(count, generator=source).sigmoid()
        shift = self._compute_shift() if self.training_shift is None else self.training_shift
        return shift * drawn_B / (1 + (shift - 1) * drawn_B)

    def noisy(self, clean_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return x_s = (1 - s) x_0 + s e."""
        noise = _per_sample(times_B)
        return (1 - noise) * clean_BCHW + noise * noise_BCHW

    def target(self, clean_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return the velocity e - x_0, which is the same at all times."""
        return noise_BCHW - clean_BCHW

    def weight(self, times_B: Tensor, min_snr_gamma: float | None = None, space: LossSpace = "model") -> Tensor:
        """Return the weights of the squared errors, float32 (B,); by default ones, those of the velocity.

        A predicted velocity implies the noise x_s + (1 - s) v and the clean latents x_s - s v, where x_s is known. So
        the noise's error is (1 - s)^2 times the velocity's, and with SNR = (1 - s)^2 / s^2 the min-SNR weight is
        min(SNR, gamma) s^2.
        """
        if min_snr_gamma is not None:
            return torch.minimum((1 - times_B).square(), min_snr_gamma * times_B.square())
        return (1 - times_B).square() if space == "epsilon" else torch.ones_like(times_B)

    def clean(self, predicted_BCHW: Tensor, noisy_BCHW: Tensor, times_B: Tensor) -> Tensor:
        """Return x_0 = x_s - s v."""
        return noisy_BCHW - _per_sample(times_B) * predicted_BCHW

    def grid(self, steps: int) -> Tensor:
        """Return the sampling sigmas as set by the model's diffusers pipeline, followed by 0."""
        scheduler = deepcopy(self.scheduler)
        self.set_timesteps(scheduler, steps)
        sigmas: Tensor = scheduler.sigmas
        return sigmas

    def set_timesteps(self, scheduler: Any, steps: int, device: torch.device | None = None) -> None:
        """Set the sampling timesteps of `scheduler`, which is this schedule's or a copy of it."""
        sigmas = np.linspace(1, 1 / steps, steps) if self.even_sigmas else None
        given = {"sigmas": sigmas, "mu": self.shift(scheduler.config, self.tokens, steps)}
        chosen = {name: value for name, value in given.items() if value is not None}
        scheduler.set_timesteps(steps, device=device, **chosen)
        scheduler.set_begin_index(0)

    def transition(
        self, predicted_BCHW: Tensor, noisy_BCHW: Tensor, times_B: Tensor, next_times_B: Tensor, eta: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of a step that preserves the flow's marginal distributions.

        "sde" is Flow-GRPO's step (Liu et al. 2025, arXiv:2505.05470, eq. 9; `eta` 0.7 for Stable Diffusion 3.5), "cps"
        the coefficients-preserving step (arXiv:2509.05952; `eta` 0.8), with no more noise than the next time has.
        """
        time, next_time = _per_sample(times_B), _per_sample(next_times_B)
        if self.stochastic_step == "cps":
            clean_BCHW = self.clean(predicted_BCHW, noisy_BCHW, times_B)
            noise_BCHW = noisy_BCHW + (1 - time) * predicted_BCHW
            std = next_time * sin(eta * pi / 2)
            return (1 - next_time) * clean_BCHW + (next_time**2 - std**2).clamp(min=0).sqrt() * noise_BCHW, std
        step = next_time - time
        # At pure noise the level would be infinite: the next time is used instead, as in Flow-GRPO's code.
        level = eta * (time / (1 - torch.where(time == 1, next_time, time))).sqrt()
        drift = level**2 / (2 * time)
        mean_BCHW = noisy_BCHW * (1 + drift * step) + predicted_BCHW * (1 + drift * (1 - time)) * step
        return mean_BCHW, level * (-step).sqrt()

    def _compute_shift(self) -> float:
        """Return k of the shift s -> k s / (1 + (k - 1) s)."""
        config = self.scheduler.config
        mu = self.shift(config, self.tokens, self.steps)
        if mu is None:
            return float(config["shift"] if "shift" in config else config["flow_shift"])
        return exp(mu) if config.time_shift_type == "exponential" else mu


def _per_sample(values_B: Tensor) -> Tensor:
    """Return the values as (B, 1, 1, 1)."""
    return values_B.view(-1, 1, 1, 1)
