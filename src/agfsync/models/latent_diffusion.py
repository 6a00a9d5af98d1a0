"""A UNet on a VAE's latents, guided by text: Stable Diffusion 1, 2 and XL.

Legend: B images in the batch, U distinct prompts, C H W latent channels, height, width.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from agfsync.errors import ModelError, model_errors
from agfsync.models.architecture import Architecture, Conditioning, choose_image_size
from agfsync.models.configuration import (
    check_choices,
    check_parts,
    count_channels,
    find_steering_obstacle,
    find_training_obstacle,
    limit_tokens,
    parts_of,
)
from agfsync.models.execution import Execution
from agfsync.models.latent_model import LatentModel
from agfsync.models.latents import LatentSpace
from agfsync.models.loading import PipelineSource, add_adapter, describe_weights
from agfsync.models.loras import Lora, fuse_loras
from agfsync.models.sampling import (
    GuidedPredict,
    add_embedding_noise,
    denoise,
    draw_embedding_noise,
    draw_noise,
    encode_with_negative,
    guide,
    make_scheduler,
    switch_models,
)
from agfsync.models.schedules import DiffusionSchedule
from agfsync.models.steering import DrawnBatch, SteerableModel, SteeredDrawing, Steering, load_steering
from agfsync.records import digest


class LatentDiffusion(LatentModel):
    """A text-to-image model with its sampling settings, which can be trained.

    `path` is a folder, a hub id or a single file; a single file takes the configuration and the tokenizers of `config`.
    `variant` is the variant of its weights, such as "fp16". `vae` and `unet` (`path`, `revision`) replace its own
    parts; `loras` are added to its weights; `adapter` is a folder with a LoRA of its network. Images have `height` x
    `width` pixels, by default the size that the network was trained for. A `guidance` above 1, away from
    `negative_prompt`, doubles the batch. `scheduler` "model" is the scheduler that the model was saved with.
    `clip_skip` is the number of last layers of the text encoders that are skipped for prompts, but not for
    `negative_prompt`, as in diffusers. `dtype` is the networks' dtype; on a CPU they keep float32 weights and run under
    autocast. `refiner`, if the architecture has one, is a model (`path`, `revision`) that takes over at step
    `from_step`. `steering` are the settings, including `type`, of a training-free method that steers the sampling.
    `attention`, `compile`, `offload` and `quantization` are those of `Execution`. With `lazy`, the text encoders are
    loaded when they are needed.

    Raises:
        ModelError: there is no such model, or it is of another kind.
    """

    _denoiser = "unet"

    def __init__(
        self,
        architecture: Architecture,
        path: str,
        *,
        revision: str | None = None,
        config: str | None = None,
        variant: str | None = None,
        vae: str | Mapping[str, Any] | None = None,
        unet: str | Mapping[str, Any] | None = None,
        loras: Sequence[Lora] = (),
        steps: int = 50,
        guidance: float = 7.5,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        scheduler: str = "model",
        clip_skip: int | None = None,
        dtype: str = "fp32",
        device: str = "auto",
        attention: str | None = None,
        compile: bool = False,
        offload: bool = False,
        quantization: str | None = None,
        adapter: Path | None = None,
        lazy: bool = False,
        refiner: Mapping[str, Any] | None = None,
        steering: Mapping[str, Any] | None = None,
    ) -> None:
        self._steering = _load_steering(architecture, steering) if steering else None
        super().__init__(architecture, path, dtype, device, Execution(attention, compile, offload, quantization))
        self._guidance = guidance
        origin = PipelineSource.from_settings(
            path, revision=revision, config=config, variant=variant, vae=vae, unet=unet
        )
        self._load_pipeline(origin, loras, lazy)
        self.remarks = fuse_loras(self._pipeline, loras)
        if adapter is not None:
            add_adapter(self._pipeline, adapter)
        self._negative_prompt, self._steps, self._clip_skip = negative_prompt, steps, clip_skip
        with model_errors(f"the model {path} can't be drawn with"):
            check_parts(architecture.name, parts_of(self._pipeline), clip_skip)
            self._move_pipeline()
            limit_tokens(self._pipeline)
            self._scheduler = make_scheduler(
                self._pipeline.scheduler, scheduler, steps, *count_channels(parts_of(self._pipeline))
            )
            self._size = choose_image_size(architecture.sides(self._pipeline), height, width)
            self._latents = LatentSpace(self._pipeline, self._size, self._precision, architecture.latent_statistics)
            self._guidance_1D = self._embedded_guidance()
        if self._steering and (reason := find_steering_obstacle(architecture.name, parts_of(self._pipeline))):
            raise ModelError(f"the model {path} can't be steered: {reason}")
        predicts = self._pipeline.scheduler.config.get("prediction_type", "epsilon")
        self._drawn_with = f"{type(self._scheduler).__name__}, prediction_type {predicts}"
        self._refiner = self._made_refiner(refiner, self._count_steps()) if refiner else None
        weights = describe_weights(architecture, origin, adapter, loras)
        execution = self._execution.list_changes()
        sampling = (steps, guidance, negative_prompt, height, width, scheduler, clip_skip, dtype, *execution)
        steered = (self._steering.identity,) if self._steering else ()
        self.identity = digest(*weights, *sampling, self._refiner and self._refiner.identity, *steered)

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance; 1 (a single prediction) if it is an input of the network (LCM)."""
        return self._guidance if self._guidance_1D is None else 1.0

    @cached_property
    def schedule(self) -> DiffusionSchedule:
        """The noise schedule that the UNet was trained with.

        Raises:
            ModelError: its scheduler or its kind of prediction doesn't support training.
        """
        if reason := find_training_obstacle(parts_of(self._pipeline), self._scheduler):
            raise ModelError(f"the model {self._model} can't be trained: {reason}")
        return DiffusionSchedule.from_scheduler(self._scheduler)

    def _draw_batch(
        self, prompts: Sequence[str], sources: Sequence[torch.Generator], embedding_noise: float
    ) -> Sequence[Image.Image]:
        with_prompt, without = encode_with_negative(
            self.encode_prompts, prompts, self._negative_prompt, self._encode_negative if self._clip_skip else None
        )
        noise = draw_embedding_noise(sources, with_prompt, self._architecture.embeddings, embedding_noise)
        # A copy for each batch, since schedulers have state.
        scheduler = deepcopy(self._scheduler)
        scheduler.set_timesteps(self._steps, device=self.device)
        conditioning = add_embedding_noise(with_prompt, noise)
        predict = guide(self._predict, conditioning, without, self.guidance)
        if self._refiner:
            predict = self._finished_by(self._refiner, predict, prompts, noise, scheduler.timesteps)
        start_BCHW = draw_noise(sources, self._latents.shape).to(self.device)
        sampling = partial(denoise, scheduler, predict, start_BCHW, sources, indexed=self._architecture.indexed)
        steered = self._begin_steering(DrawnBatch(prompts, conditioning, noise, scheduler))
        self._encoders.take_turn(self._denoiser)
        if steered is None:
            return self._decode(sampling(), self._drawn_with)
        with steered.attached():
            latents_BCHW = sampling(before_step=steered.before_step)
        return self._decode(latents_BCHW, self._drawn_with)

    def _begin_steering(self, batch: DrawnBatch) -> SteeredDrawing | None:
        if self._steering is None:
            return None
        height, width = self._latents.shape[-2:]
        model = SteerableModel(
            network=self.network,
            tokenizer=self._pipeline.tokenizer,
            encode=self.encode_prompts,
            predict=self.predict,
            size=self._size,
            latent_size=(height, width),
        )
        return self._steering.begin(model, batch)

    def _encode_texts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode `prompts`. No layer is skipped for the empty prompt, which means "no prompt"."""
        said = self._architecture.encode(self._pipeline, prompts, self._size, self._clip_skip)
        if not self._clip_skip or all(prompts):
            return said
        unsaid, silent_U = self._encode_negative(""), torch.tensor([not prompt for prompt in prompts])
        return {
            name: torch.where(silent_U.view(-1, *[1] * (each.dim() - 1)).to(each.device), unsaid[name], each)
            for name, each in said.items()
        }

    @torch.no_grad()
    def _encode_negative(self, prompt: str) -> Conditioning:
        """Return the conditioning of one prompt, one row, without skipping layers."""
        return self._architecture.encode(self._pipeline, [prompt], self._size)

    def predict(self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction of `network`, this UNet or a copy of it, for noisy latents: (B, C, H, W)."""
        dtype = self._precision.weights
        arguments = self._architecture.cast(conditioning, dtype)
        if self._guidance_1D is not None:
            arguments["timestep_cond"] = self._guidance_1D.to(dtype).expand(len(noisy_BCHW), -1)
        predicted: Tensor = network(noisy_BCHW.to(dtype), times_B, **arguments).sample
        return predicted

    def _predict(self, noisy_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction in float32: only the network itself computes in another dtype."""
        with self._precision.autocast():
            return self.predict(self.network, noisy_BCHW, timestep.expand(len(noisy_BCHW)), conditioning).float()

    def _embedded_guidance(self) -> Tensor | None:
        """Return the embedding of the guidance scale (1, D) if the network takes one (LCM), else None."""
        width = self._pipeline.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.tensor([self._guidance - 1.0])
        embedding: Tensor = self._pipeline.get_guidance_scale_embedding(scale, embedding_dim=width)
        return embedding.to(self.device)

    def _count_steps(self) -> int:
        """Return the number of predictions for an image: some schedulers need two for each step."""
        scheduler = deepcopy(self._scheduler)
        scheduler.set_timesteps(self._steps)
        return len(scheduler.timesteps)

    def _finished_by(
        self,
        refiner: Any,
        predict: GuidedPredict,
        prompts: Sequence[str],
        noise: Mapping[str, Tensor],
        timesteps: Tensor,
    ) -> GuidedPredict:
        """Return a prediction by `predict` in the first steps, and by the refiner from its first step on."""
        with_prompt, without = refiner.conditioning(prompts, self._negative_prompt, self._size, noise)

        def predict_refined(noisy_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            with self._precision.autocast():
                predicted: Tensor = refiner.predict(noisy_BCHW, timestep.expand(len(noisy_BCHW)), conditioning)
                return predicted.float()

        finish = guide(predict_refined, with_prompt, without, self._guidance)
        return switch_models(predict, finish, timesteps, refiner.from_step)

    def _made_refiner(self, settings: Mapping[str, Any], steps: int) -> Any:
        make = self._architecture.refiner
        others = {name: value for name, value in settings.items() if name != "path"}
        if make is None:
            check_choices(self._architecture.name, refiner=settings["path"])
            return None
        if settings["from_step"] >= steps:
            raise ModelError(f"the refiner can't begin at step {settings['from_step']}: the generator has {steps}")
        with model_errors(f"the refiner {settings['path']} can't be drawn with"):
            return make(settings["path"], **others, dtype=self._precision.weights, device=self.device)


def _load_steering(architecture: Architecture, settings: Mapping[str, Any]) -> Steering:
    """Return the training-free method that `settings` describe. This needs no model, so it can fail early."""
    if not architecture.steerable:
        reason = find_steering_obstacle(architecture.name, {})
        raise ModelError(f"{settings['type']} can't steer this model: {reason}")
    return load_steering(settings)
