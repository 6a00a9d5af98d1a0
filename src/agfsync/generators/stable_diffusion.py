"""Stable Diffusion 1.x and 2.x, and whatever else is saved as a diffusers `StableDiffusionPipeline`.

Legend: B images in the batch, U distinct prompts, T tokens, D embedding width, C H W latent channels, height, width,
N diffusion timesteps.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.generators import LORA_FILE
from agfsync.generators.tensors import to_images, to_tensor
from agfsync.pictures import fitted
from agfsync.pretrained import DTYPES, explained, fingerprint, quiet, source, torch_device
from agfsync.records import digest

TEXT = "encoder_hidden_states_BTD"
Conditioning = Mapping[str, Tensor]


class StableDiffusion:
    """A text-to-image model with its sampling settings, and what its alignment needs of it.

    `model` is a folder or a hub id; `adapter` a folder with a LoRA of its network. The picture is `height` x `width`
    pixels, by default the size that the network was made for. `guidance` above 1 doubles the batch; `scheduler` "model"
    is the one that the model was saved with. `dtype` is that of the networks: on a CPU they keep float32 weights and
    run under autocast.

    Raises:
        ModelError: there is no such model, or it is of another kind.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        steps: int = 50,
        guidance: float = 7.5,
        height: int | None = None,
        width: int | None = None,
        scheduler: str = "model",
        dtype: str = "fp32",
        device: str = "auto",
        adapter: Path | None = None,
    ) -> None:
        self.device = torch_device(device)
        self._dtype = DTYPES[dtype]
        self._steps, self._guidance = steps, guidance
        self._pipeline = _load(model, revision, self._weights_dtype)
        if adapter is not None:
            _add_adapter(self._pipeline, adapter)
        self._pipeline.to(self.device)
        self._scheduler = _scheduler(self._pipeline.scheduler, scheduler)
        self._latent_shape = self._shape(height, width)
        weights = [fingerprint(model, revision, "model_index.json"), adapter and fingerprint(str(adapter), None)]
        self.identity = digest("stable-diffusion", *weights, steps, guidance, height, width, scheduler, dtype)

    @property
    def network(self) -> nn.Module:
        """The UNet, which alignment trains."""
        unet: nn.Module = self._pipeline.unet
        return unet

    @property
    def alphas_cumprod_N(self) -> Tensor:
        """The signal's share of the variance at each timestep of training, float32 in 0..1, falling."""
        alphas: Tensor = self._scheduler.alphas_cumprod
        return alphas.float().cpu()

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" or "v_prediction"."""
        return str(self._pipeline.scheduler.config.prediction_type)

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        """One picture for each prompt and its seed, in order, all in one batch: x0 = G(c + n, z0) (Eq. 1).

        An image's seed gives first n ~ N(0, `embedding_noise`^2 I), then z0, so that z0 is the same whatever the noise.
        """
        sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        distinct = list(dict.fromkeys(prompts))
        *text_UTD, empty_TD = self.encode_prompts([*distinct, ""])[TEXT]
        text_BTD = torch.stack([text_UTD[distinct.index(prompt)] for prompt in prompts])
        text_BTD = text_BTD + embedding_noise * self._noise(sources, text_BTD.shape[1:])
        latents_BCHW = self._sample(text_BTD, empty_TD.expand_as(text_BTD), sources)
        return self.decode_latents(latents_BCHW)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents, float32 (B, C, H, W): the mean of the VAE's posterior. Pictures of other sizes are fitted.

        The mean and not a sample, because it is the same for every run and seed, and because sampling would put noise
        between winner and loser that the preference says nothing about.
        """
        height, width = (edge * self._pipeline.vae_scale_factor for edge in self._latent_shape[1:])
        pixels_BCHW = to_tensor([fitted(image, width, height) for image in images])
        with self._autocast():
            posterior = self._pipeline.vae.encode(pixels_BCHW.to(self.device, self._weights_dtype)).latent_dist
        latents_BCHW: Tensor = posterior.mean.float() * self._pipeline.vae.config.scaling_factor
        return latents_BCHW

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """The text encoder's last hidden states, float32 (U, T, D). Never under autocast: it is little work."""
        tokenizer = self._pipeline.tokenizer
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return {TEXT: self._pipeline.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state.float()}

    def predict(
        self, network: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """What `network`, this UNet or a copy of it, predicts for noisy latents: (B, C, H, W)."""
        predicted: Tensor = network(
            noisy_BCHW.to(self._weights_dtype),
            timesteps_B,
            encoder_hidden_states=conditioning[TEXT].to(self._weights_dtype),
        ).sample
        return predicted

    def save(self, folder: Path) -> None:
        """Writes the whole pipeline, with the UNet as it now is, as safetensors."""
        with _quiet():
            self._pipeline.save_pretrained(folder, safe_serialization=True)

    def save_adapter(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Writes a LoRA of the UNet, `weights` by peft's names, as diffusers and others read it."""
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=dict(weights), safe_serialization=True)

    def _sample(self, text_BTD: Tensor, empty_BTD: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """Denoises each source's next latents under guidance; everything but the UNet's own work is in float32."""
        scheduler = self._scheduler
        scheduler.set_timesteps(self._steps, device=self.device)
        accepts_noise = "generator" in inspect.signature(scheduler.step).parameters
        noise = {"generator": list(sources)} if accepts_noise else {}
        latents_BCHW: Tensor = self._noise(sources, self._latent_shape) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            noisy_BCHW = scheduler.scale_model_input(latents_BCHW, timestep)
            predicted_BCHW = self._guided(noisy_BCHW, timestep, text_BTD, empty_BTD)
            latents_BCHW = scheduler.step(predicted_BCHW, timestep, latents_BCHW, **noise).prev_sample
        return latents_BCHW

    def _guided(self, noisy_BCHW: Tensor, timestep: Tensor, text_BTD: Tensor, empty_BTD: Tensor) -> Tensor:
        """The prediction without the prompt, moved towards that with it and past it by the guidance scale."""
        if self._guidance <= 1:
            return self._predict(noisy_BCHW, timestep, text_BTD)
        both = self._predict(torch.cat([noisy_BCHW, noisy_BCHW]), timestep, torch.cat([empty_BTD, text_BTD]))
        without_BCHW, with_BCHW = both.chunk(2)
        return without_BCHW + self._guidance * (with_BCHW - without_BCHW)

    def _predict(self, noisy_BCHW: Tensor, timestep: Tensor, text_BTD: Tensor) -> Tensor:
        with self._autocast():
            return self.predict(self.network, noisy_BCHW, timestep.expand(len(noisy_BCHW)), {TEXT: text_BTD}).float()

    @torch.inference_mode()
    def decode_latents(self, latents_BCHW: Tensor) -> Sequence[Image.Image]:
        """RGB pictures of scaled latents (B, C, H, W), the way back from `encode_images`.

        Raises:
            ModelError: some come out as no numbers, which would be black pictures.
        """
        vae = self._pipeline.vae
        with self._autocast():
            pixels_BCHW = vae.decode((latents_BCHW / vae.config.scaling_factor).to(self._weights_dtype)).sample
        if not torch.isfinite(pixels_BCHW).all():
            raise ModelError("the generator's pictures are not numbers: set its dtype to bf16 or fp32")
        return to_images(pixels_BCHW)

    def _noise(self, sources: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
        """Each source's next N(0, I) of `shape`, drawn on the CPU so that no batch or device has a say in it."""
        return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources]).to(self.device)

    def _autocast(self) -> torch.autocast:
        on_cpu = self.device.type == "cpu" and self._dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self._dtype if on_cpu else None, enabled=on_cpu)

    @property
    def _weights_dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "cpu" else self._dtype

    def _shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        scale, config = self._pipeline.vae_scale_factor, self._pipeline.unet.config
        for name, side in (("height", height), ("width", width)):
            if side is not None and side % scale:
                raise ModelError(f"the generator's {name} must be a multiple of {scale}, got {side}")
        default = config.sample_size
        return config.in_channels, (height or default * scale) // scale, (width or default * scale) // scale


def _load(model: str, revision: str | None, dtype: torch.dtype) -> Any:
    """The pipeline at `model`, safetensors only, without its safety checker: candidates are scored, not published."""
    with explained(model), _quiet():
        where = source(model, revision)
        kind = StableDiffusionPipeline.load_config(model, **where).get("_class_name")
        if kind != StableDiffusionPipeline.__name__:
            raise ModelError(f"{model} is a {kind}: the type stable-diffusion needs a StableDiffusionPipeline")
        pipeline = StableDiffusionPipeline.from_pretrained(
            model,
            dtype=dtype,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **where,
        )
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
    return pipeline


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers, too, has bars of its own, and warns of a LoRA that leaves the text encoder as it is."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _add_adapter(pipeline: Any, folder: Path) -> None:
    with explained(str(folder)), _quiet():
        if not (folder / LORA_FILE).is_file():
            raise ModelError(f"no adapter at {folder}: there is no {LORA_FILE}")
        pipeline.load_lora_weights(folder, weight_name=LORA_FILE, local_files_only=True, use_safetensors=True)


def _scheduler(saved: Any, name: str) -> Any:
    """The sampler `name` on the noise schedule of the model's training. Latents aren't pixels: nothing clips them."""
    if name == "ddim":
        return DDIMScheduler.from_config(saved.config, clip_sample=False)
    if name == "dpm++":
        return DPMSolverMultistepScheduler.from_config(saved.config, algorithm_type="dpmsolver++")
    return type(saved).from_config(saved.config)
