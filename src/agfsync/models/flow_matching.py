"""A transformer on a VAE's latents that predicts a flow's velocity: Stable Diffusion 3, FLUX, Z-Image and others.

Legend: B images in the batch, C H W latent channels, height, width; U distinct prompts, T tokens of text, D their
width; N the network's tokens of an image, each with P numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from agfsync.errors import ModelError, model_errors
from agfsync.models.architecture import (
    ATTENTION,
    TEXT_STATES,
    Architecture,
    Conditioning,
    ImageSides,
    choose_image_size,
)
from agfsync.models.configuration import check_choices, check_parts, parts_of
from agfsync.models.execution import Execution
from agfsync.models.latent_model import LatentModel
from agfsync.models.latents import LatentSpace
from agfsync.models.loading import PipelineSource, add_adapter, describe_weights
from agfsync.models.loras import Lora, fuse_loras
from agfsync.models.sampling import (
    add_embedding_noise,
    denoise_flow,
    draw_embedding_noise,
    draw_noise,
    encode_with_negative,
    guide,
)
from agfsync.models.schedules import FlowSchedule, MeanShift, TimeSampling, mean_shift
from agfsync.records import digest

POOLED_PROJECTIONS = "pooled_projections_BE"
TEXT_MASK = "encoder_hidden_states_mask_BT"
"""True for the tokens of a prompt, False for padding"""
TIMESTEPS = 1000
"""The timestep of pure noise; some networks take a time in 0..1 instead."""
PATCH = 2
"""FLUX, FLUX.2 and Qwen-Image pack squares of latents with this side into one token."""
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""The projections of image and text that diffusers' training scripts adapt."""


@dataclass(frozen=True, slots=True)
class Family:
    """The differences between families of flow-matching models, in addition to their `architecture`."""

    architecture: Architecture
    check: Callable[[Any, float, str], None]
    """(pipeline, guidance, negative prompt) -> None; raises a ModelError if the pipeline doesn't support them"""
    predict: Callable[[Any, Tensor, Tensor, dict[str, Any], float], Tensor]
    """(transformer, noisy latents (B, C, H, W), timesteps (B,), conditioning, guidance) -> velocity (B, C, H, W)"""
    even_sigmas: bool = True
    """True if the sigmas are evenly spaced from 1 to 1 / steps before the shift; otherwise they are the scheduler's"""
    training_times: TimeSampling = "uniform"
    scale: Callable[[Any, float], float] = lambda pipeline, guidance: guidance
    """(pipeline, guidance) -> the scale of classifier-free guidance; 1 needs no second prediction"""
    shift: MeanShift = mean_shift
    rescale: Callable[[Tensor, Tensor], Tensor] | None = None
    """(guided prediction, prediction with the prompt) -> the guided prediction that the sampler uses"""
    has_sequence_length: bool = False
    """True if `architecture.encode` takes `max_sequence_length`"""
    encode_negative: Callable[[Any, str], Conditioning] | None = None
    """(pipeline, negative prompt) -> its conditioning, one row; by default it is encoded like the prompts"""


class FlowMatching(LatentModel):
    """A text-to-image model with its sampling settings, which can be trained.

    `path` is a folder or a hub id, `variant` the variant of its weights, such as "fp16". `vae` and `transformer`
    (`path`, `revision`) replace its own parts; `loras` are added to its weights; `adapter` is a folder with a LoRA of
    its network. Images have `height` x `width` pixels, by default the size that the network was trained for.
    `scheduler` can only be "model", the scheduler that the model was saved with. `dtype` is the networks' dtype; on a
    CPU they keep float32 weights and run under autocast. `max_sequence_length` is the number of tokens that T5 reads,
    for families that have one; by default that of diffusers' pipeline. `attention`, `compile`, `offload` and
    `quantization` are those of `Execution`. With `lazy`, the text encoders are loaded when they are needed.
    `training_times` is the distribution of the training times (see `FlowSchedule`), by default that of diffusers'
    training script for the family; `training_shift` is their shift, by default the scheduler's.

    Raises:
        ModelError: there is no such model, it is of another kind, or a setting doesn't apply to it.
    """

    _denoiser = "transformer"

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
        max_sequence_length: int | None = None,
        dtype: str = "fp32",
        device: str = "auto",
        attention: str | None = None,
        compile: bool = False,
        offload: bool = False,
        quantization: str | None = None,
        adapter: Path | None = None,
        lazy: bool = False,
        training_times: TimeSampling | None = None,
        training_shift: float | None = None,
    ) -> None:
        architecture = family.architecture
        check_choices(architecture.name, scheduler)
        self._text: dict[str, int] = {} if max_sequence_length is None else {"max_sequence_length": max_sequence_length}
        if self._text and not family.has_sequence_length:
            raise ModelError(f"{architecture.name} has no max_sequence_length: leave it out")
        super().__init__(architecture, path, dtype, device, Execution(attention, compile, offload, quantization))
        self._family, self._guidance, self._negative_prompt = family, guidance, negative_prompt
        origin = PipelineSource.from_settings(
            path, revision=revision, variant=variant, vae=vae, transformer=transformer
        )
        self._load_pipeline(origin, loras, lazy)
        with model_errors(f"the model {path} can't be drawn with"):
            check_parts(architecture.name, parts_of(self._pipeline))
        family.check(self._pipeline, guidance, negative_prompt)
        self._scale = family.scale(self._pipeline, guidance)
        sides = architecture.sides(self._pipeline)
        self._size = choose_image_size(sides, height, width)
        self._steps, tokens = steps, prod(side // sides.multiple_of for side in self._size)
        # A copy, since a scheduler counts its steps.
        self._scheduler = deepcopy(self._pipeline.scheduler)
        self.schedule = FlowSchedule(
            self._scheduler,
            tokens,
            training_times or family.training_times,
            family.even_sigmas,
            shift=family.shift,
            steps=steps,
            training_shift=training_shift,
        )
        self.remarks = fuse_loras(self._pipeline, loras)
        if adapter is not None:
            add_adapter(self._pipeline, adapter)
        with model_errors(f"the model {path} can't be drawn with"):
            self._move_pipeline()
        self._latents = LatentSpace(
            self._pipeline, self._size, self._precision, architecture.latent_statistics, architecture.latent_patch
        )
        sampling = (
            steps,
            guidance,
            negative_prompt,
            height,
            width,
            scheduler,
            dtype,
            *self._text.values(),
            *self._execution.list_changes(),
        )
        self.identity = digest(*describe_weights(architecture, origin, adapter, loras), *sampling)

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance; 1 for a network that takes it as an input (FLUX)."""
        return self._scale

    def _draw_batch(
        self, prompts: Sequence[str], sources: Sequence[torch.Generator], embedding_noise: float
    ) -> Sequence[Image.Image]:
        with_prompt, without = encode_with_negative(
            self.encode_prompts, prompts, self._negative_prompt, self._negative_encoder()
        )
        noise = draw_embedding_noise(sources, with_prompt, self._architecture.embeddings, embedding_noise)
        conditioning = add_embedding_noise(with_prompt, noise)
        predict = guide(self._predict, conditioning, without, self._scale, self._family.rescale)
        start_BCHW = draw_noise(sources, self._latents.shape).to(self.device)
        self.schedule.set_timesteps(self._scheduler, self._steps, self.device)
        self._encoders.take_turn(self._denoiser)
        return self._decode(denoise_flow(self._scheduler, predict, start_BCHW, sources))

    def _encode_texts(self, prompts: Sequence[str]) -> Conditioning:
        return self._architecture.encode(self._pipeline, prompts, self._size, **self._text)

    def predict(self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the velocity that `network`, this transformer or a copy of it, predicts: (B, C, H, W).

        A network that takes the guidance as an input gets the guidance that the model draws with.
        """
        return self._predict_velocity(network, noisy_BCHW, times_B * self.schedule.timesteps, conditioning)

    def _negative_encoder(self) -> Callable[[str], Conditioning] | None:
        encode = self._family.encode_negative
        return None if encode is None else partial(encode, self._pipeline)

    def _predict(self, noisy_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the velocity in float32: only the network itself computes in another dtype."""
        timesteps_B = timestep.expand(len(noisy_BCHW))
        with self._precision.autocast():
            return self._predict_velocity(self.network, noisy_BCHW, timesteps_B, conditioning).float()

    def _predict_velocity(
        self, network: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        dtype = self._precision.weights
        arguments = self._architecture.cast(conditioning, dtype)
        return self._family.predict(network, noisy_BCHW.to(dtype), timesteps_B, arguments, self._guidance)


def transformer_arguments(conditioning: Conditioning) -> dict[str, Any]:
    """Return the transformer's keyword arguments."""
    return {"encoder_hidden_states": conditioning[TEXT_STATES], "pooled_projections": conditioning[POOLED_PROJECTIONS]}


def find_packed_sides(pipeline: Any) -> ImageSides:
    """Return the image sides of a model that packs squares of latents into tokens."""
    scale = pipeline.vae_scale_factor
    return ImageSides(scale * PATCH, pipeline.default_sample_size * scale)


def check_classifier_free(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    """Check that a negative prompt comes with a guidance above 1, which it needs to have an effect.

    Raises:
        ModelError: the guidance is 1 or less.
    """
    if negative_prompt and guidance <= 1:
        raise ModelError(
            f"guidance {guidance:g} leads away from nothing: raise it above 1 or leave out negative_prompt"
        )


def pad_texts(texts: Sequence[Tensor], tokens: int) -> Conditioning:
    """Return texts (T', D) of any length, padded with zeros to `tokens`, and their mask: (U, T, D), (U, T).

    The conditioning of all prompts has one shape, so that rows of several encodings fit into one batch.
    """
    lengths_U = torch.tensor([len(text_TD) for text_TD in texts], device=texts[0].device)
    states = torch.stack([pad(text_TD.float(), (0, 0, 0, tokens - len(text_TD))) for text_TD in texts])
    return {TEXT_STATES: states, TEXT_MASK: torch.arange(tokens, device=states.device) < lengths_U[:, None]}


def masked_text_arguments(conditioning: Conditioning) -> dict[str, Any]:
    """Return the text and its mask, cut to the longest row of the batch."""
    mask_BT = conditioning[TEXT_MASK]
    longest = int(mask_BT.sum(dim=1).max())
    return {"text": conditioning[TEXT_STATES][:, :longest], "mask": mask_BT[:, :longest]}


def pack_tokens(latents_BCHW: Tensor, patch: int) -> Tensor:
    """Return tokens (B, N, C * patch^2), row by row; each is a square of `patch` x `patch` latents."""
    return pixel_unshuffle(latents_BCHW, patch).flatten(2).transpose(1, 2)


def unpack_tokens(tokens_BNP: Tensor, like_BCHW: Tensor, patch: int) -> Tensor:
    """Return latents with the height and width of `like_BCHW` from tokens: the inverse of `pack_tokens`."""
    rows, columns = (side // patch for side in like_BCHW.shape[-2:])
    return pixel_shuffle(tokens_BNP.transpose(1, 2).unflatten(2, (rows, columns)), patch)
