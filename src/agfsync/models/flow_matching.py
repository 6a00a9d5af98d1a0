"""A transformer on a VAE's latents that predicts a flow's velocity: what Stable Diffusion 3 and FLUX have in common.

They draw, and aren't trained: the loss of Diffusion-DPO (Eq. 8) is that of a noise prediction.

Legend: B images in the batch, U distinct prompts, T tokens, D embedding width, E width of the pooled embedding,
C H W latent channels, height, width.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agfsync.errors import model_errors
from agfsync.models.architecture import TEXT, Architecture, Conditioning, picture_size
from agfsync.models.configuration import check_choices, check_parts, parts_of
from agfsync.models.dtypes import torch_dtype
from agfsync.models.latents import LatentSpace
from agfsync.models.loading import PipelineSource, load_pipeline, weights_of
from agfsync.models.loras import Lora, fuse_loras
from agfsync.models.precision import Precision
from agfsync.models.pretrained import torch_device
from agfsync.models.sampling import draw_noise, embedding_noise_of, encoded, flow, guided, noised
from agfsync.records import digest

POOLED = "pooled_projections_BE"


@dataclass(frozen=True, slots=True)
class Family:
    """What tells one family of these from another, beside its `architecture`."""

    architecture: Architecture
    check: Callable[[Any, float, str], None]
    """(the transformer's configuration, guidance, negative prompt) -> raises a ModelError where they make no sense"""
    predict: Callable[[Any, Tensor, Tensor, dict[str, Any], float], Tensor]
    """(transformer, noisy latents (B, C, H, W), timesteps (B,), conditioning, guidance) -> velocity (B, C, H, W)"""
    distilled: bool
    """guidance is told to the network, and asks for no second prediction"""
    even_sigmas: bool
    """before they are shifted, the steps' sigmas are even from 1 to 1 / steps; else they are the scheduler's own"""


class FlowMatching:
    """A text-to-image model with its sampling settings.

    `path` is a folder or a hub id; `variant` is that of its weights, such as "fp16"; `vae` and `transformer` (`path`,
    `revision`) take the place of its own; `loras` are added to its weights. The picture is `height` x `width` pixels,
    by default the size that the network was made for. `scheduler` can only be "model", the one that the model was saved
    with. `dtype` is that of the networks: on a CPU they keep float32 weights and run under autocast.

    Raises:
        ModelError: there is no such model, it is of another kind, or a setting makes no sense for it.
    """

    def __init__(
        self,
        family: Family,
        path: str,
        *,
        revision: str | None = None,
        variant: str | None = None,
        vae: str | Mapping[str, Any] | None = None,
        transformer: str | Mapping[str, Any] | None = None,
        loras: Sequence[Lora] = (),
        steps: int = 28,
        guidance: float = 3.5,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        scheduler: str = "model",
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        architecture = family.architecture
        check_choices(architecture.name, scheduler)
        self._family, self._guidance, self._negative_prompt, self._model = family, guidance, negative_prompt, path
        place = torch_device(device)
        self._precision = Precision(place, torch_dtype(dtype, place))
        origin = PipelineSource.of(path, revision=revision, variant=variant, vae=vae, transformer=transformer)
        self._pipeline = load_pipeline(architecture, origin, self._precision.weights)
        with model_errors(f"the model {path} can't be drawn with"):
            check_parts(architecture.name, parts_of(self._pipeline))
        family.check(self._pipeline.transformer.config, guidance, negative_prompt)
        sides = architecture.sides(self._pipeline)
        self._size = picture_size(sides, height, width)
        self._steps, self._tokens = steps, prod(side // sides.multiple_of for side in self._size)
        # A copy: it counts its steps.
        self._scheduler = deepcopy(self._pipeline.scheduler)
        self.remarks = fuse_loras(self._pipeline, loras)
        with model_errors(f"the model {path} can't be drawn with"):
            self._pipeline.to(self._precision.device)
        self._latents = LatentSpace(self._pipeline, self._size, self._precision, architecture.latent_statistics)
        sampling = (steps, guidance, negative_prompt, height, width, scheduler, dtype)
        self.identity = digest(*weights_of(architecture, origin, loras=loras), *sampling)

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        """One picture for each prompt and its seed, in order, all in one batch: x0 = G(c + n, z0) (Eq. 1).

        An image's seed gives first n ~ N(0, `embedding_noise`^2 I), then z0, so that z0 is the same whatever the noise.
        """
        with model_errors(f"the model {self._model} can't draw"):
            return self._draw(prompts, seeds, embedding_noise)

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with_prompt, without = encoded(self._encode, prompts, self._negative_prompt)
        noise = embedding_noise_of(sources, with_prompt, self._family.architecture.embeddings, embedding_noise)
        scale = 1.0 if self._family.distilled else self._guidance
        predict = guided(self._predict, noised(with_prompt, noise), without, scale)
        start_BCHW = draw_noise(sources, self._latents.shape).to(self._precision.device)
        self._set_timesteps()
        return self._latents.decode(flow(self._scheduler, predict, start_BCHW, sources))

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        return self._family.architecture.encode(self._pipeline, prompts, self._size)

    def _predict(self, noisy_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """In float32, as is everything but the network's own work."""
        dtype, timesteps_B = self._precision.weights, timestep.expand(len(noisy_BCHW))
        told = self._family.architecture.cast(conditioning, dtype)
        with self._precision.autocast():
            return self._family.predict(
                self._pipeline.transformer, noisy_BCHW.to(dtype), timesteps_B, told, self._guidance
            ).float()

    def _set_timesteps(self) -> None:
        sigmas = np.linspace(1, 1 / self._steps, self._steps) if self._family.even_sigmas else None
        mu = shift(self._scheduler.config, self._tokens)
        self._scheduler.set_timesteps(self._steps, device=self._precision.device, sigmas=sigmas, mu=mu)
        self._scheduler.set_begin_index(0)


def arguments(conditioning: Conditioning) -> dict[str, Any]:
    """What the transformer calls it."""
    return {"encoder_hidden_states": conditioning[TEXT], "pooled_projections": conditioning[POOLED]}


def shift(config: Any, tokens: int) -> float | None:
    """mu, by which the sigmas are shifted towards noise for a picture of so many tokens; None if they aren't by size.

    It is on the line through (`base_image_seq_len`, `base_shift`) and (`max_image_seq_len`, `max_shift`) (FLUX.1).
    """
    if not config.use_dynamic_shifting:
        return None
    rise = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return float(config.base_shift + rise * (tokens - config.base_image_seq_len))
