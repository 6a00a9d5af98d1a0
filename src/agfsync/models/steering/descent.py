"""Gradient descent on the latents, with a loss on the attention maps.

Legend: B images in the batch, R steered rows, C H W latent channels, height, width, T tokens, N cells of the grid.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import Size
from agfsync.models.steering import DrawnBatch, SteerableModel
from agfsync.models.steering.attention import choose_level, list_cross_attention, list_grids, record_maps

MapsLoss = Callable[[int, Tensor], Tensor]
"""(row in the batch, its maps, float32 (T, N)) -> scalar"""
FP16_SCALE = 1024.0
"""The factor on the loss of an fp16 network; without it, small gradients would underflow."""


class MapsDescent:
    """Losses on the maps of a batch's steered rows, and their gradients with respect to the latents.

    The forward pass has only the prompts, without guidance. The network computes in its own dtype, on a CPU in float32;
    maps, losses and latents are float32. A row's values don't depend on other rows, except for rounding.
    """

    def __init__(self, model: SteerableModel, batch: DrawnBatch, grid: int | None) -> None:
        config: Any = model.network.config
        grids = list_grids(config, model.latent_size)
        level = choose_level(grids, model.size, grid)
        self.grid: Size = grids[level]
        self._layers = list_cross_attention(model.network, level)
        self._model, self._batch = model, batch

    @property
    def steps(self) -> int:
        """The number of timesteps of the scheduler."""
        return len(self._batch.scheduler.timesteps)

    def measure(self, step: int, latents_BCHW: Tensor, rows: Sequence[int], loss: MapsLoss) -> tuple[Tensor, Tensor]:
        """Return the losses of `rows`, (R,), and the directions in which they increase, (R, C, H, W); both float32.

        A direction is the gradient with respect to the network's input, in the units of the latents, so that schedulers
        that scale the input (Euler) and those that don't (DDIM) are steered equally.

        Raises:
            ModelError: a gradient isn't finite.
        """
        # Autograd can't save tensors of inference mode, in which drawing runs, so they are cloned outside of it.
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.tensor(list(rows), device=latents_BCHW.device)
            scheduler = self._batch.scheduler
            timestep = scheduler.timesteps[step].clone()
            scale = scheduler.scale_model_input(torch.ones(1, device=latents_BCHW.device), timestep).clone()
            noisy_RCHW = (latents_BCHW[at] * scale).clone().requires_grad_()
            conditioning = {name: tensor[at].clone() for name, tensor in self._batch.conditioning.items()}
            times_R = timestep.expand(len(rows)).clone()

            def run() -> Tensor:
                return self._model.predict(self._model.network, noisy_RCHW, times_R, conditioning)

            maps_RTN = record_maps(self._layers, run)
            losses_R = torch.stack([loss(row, maps_TN) for row, maps_TN in zip(rows, maps_RTN, strict=True)])
            factor = FP16_SCALE if self._is_fp16 else 1.0
            (gradient_RCHW,) = torch.autograd.grad(losses_R.sum() * factor, noisy_RCHW)
        if not torch.isfinite(gradient_RCHW).all():
            raise ModelError(
                "the gradient of the steering isn't finite: lower its strength, or set the model's dtype to fp32"
            )
        return losses_R.detach(), gradient_RCHW.float() / (factor * scale)

    @property
    def _is_fp16(self) -> bool:
        return next(self._model.network.parameters()).dtype == torch.float16


def move_rows(latents_BCHW: Tensor, rows: Sequence[int], by_RCHW: Tensor) -> Tensor:
    """Return the latents with `by_RCHW` subtracted from `rows`; other rows are unchanged."""
    moved_BCHW = latents_BCHW.clone()
    at = torch.tensor(list(rows), device=latents_BCHW.device)
    moved_BCHW[at] = latents_BCHW[at] - by_RCHW
    return moved_BCHW
