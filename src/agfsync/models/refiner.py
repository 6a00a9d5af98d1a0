"""SDXL's refiner: a second network in the base's latent space, which takes the last, least noisy steps.

Legend: B images in the batch, U distinct prompts, T tokens, D width of the second text encoder's embeddings, E width
of the pooled one, C H W latent channels, height, width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from torch import Tensor

from agfsync.models.architecture import TEXT, Architecture, Conditioning, Size
from agfsync.models.configuration import REFINER, check_parts, limit_tokens, parts_of
from agfsync.models.loading import PipelineSource, load_pipeline
from agfsync.models.pretrained import fingerprint
from agfsync.models.sampling import encoded, noised
from agfsync.models.single_file import UNET, VAE
from agfsync.models.xl import POOLED, TIME_IDS, arguments, numbers, read, silenced

BEAUTY, UGLINESS = 6.0, 2.5
"""The aesthetic scores, of 1 to 10, that it is told with the prompt and without: those of SDXL's own pipeline."""


class Refiner:
    """The refiner at `model`, a folder or hub id, which takes over after `from_step` steps of the base.

    Raises:
        ModelError: there is none, or it is of another kind.
    """

    def __init__(
        self, model: str, *, revision: str | None, from_step: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._pipeline = load_pipeline(ARCHITECTURE, PipelineSource(model, revision), dtype)
        check_parts(ARCHITECTURE.name, parts_of(self._pipeline))
        limit_tokens(self._pipeline)
        self._pipeline.unet.to(device)
        self._pipeline.text_encoder_2.to(device)
        self._dtype = dtype
        self.from_step = from_step
        self.identity = [fingerprint(model, revision, "model_index.json"), from_step]

    def conditioning(
        self, prompts: Sequence[str], negative: str, size: Size, noise: Mapping[str, Tensor]
    ) -> tuple[Conditioning, Conditioning]:
        """What the prompts say to it with the noise (B, ...) that the base saw, and what `negative` says; B rows each.

        Its one text encoder is the base's second, so that of the noise on the text the last D numbers are its own.
        """
        with_prompt, without = encoded(lambda texts: _encode(self._pipeline, texts, size), prompts, negative)
        text_BTD = with_prompt[TEXT]
        seen = {TEXT: noise[TEXT][..., -text_BTD.shape[-1] :], POOLED: noise[POOLED]}
        ugly = numbers([*size, 0, 0, UGLINESS], text_BTD.device, len(prompts))
        return noised(with_prompt, seen), {**without, TIME_IDS: ugly}

    def predict(self, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        """What it predicts for noisy latents: (B, C, H, W)."""
        told = ARCHITECTURE.cast(conditioning, self._dtype)
        predicted: Tensor = self._pipeline.unet(noisy_BCHW.to(self._dtype), timesteps_B, **told).sample
        return predicted


def _encode(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Text (U, T, D), pooled (U, E), and the size, no crop and a high aesthetic score (U, 5)."""
    text_UTD, output = read(pipeline.text_encoder_2, pipeline.tokenizer_2, prompts)
    text_UTD, pooled_UE = silenced(pipeline, prompts, text_UTD, output.text_embeds.float())
    time_ids = numbers([*size, 0, 0, BEAUTY], text_UTD.device, len(prompts))
    return {TEXT: text_UTD, POOLED: pooled_UE, TIME_IDS: time_ids}


def _vae_dtype(vae: Any, dtype: torch.dtype) -> torch.dtype:
    """Its VAE is the base's, and never used."""
    return dtype


ARCHITECTURE = Architecture(
    name=REFINER,
    pipeline=StableDiffusionXLImg2ImgPipeline,
    embeddings=(TEXT, POOLED),
    encode=_encode,
    arguments=arguments,
    vae_dtype=_vae_dtype,
    extras={"add_watermarker": False},
    marker="conditioner.embedders.0.model.",
    prefixes={"unet": UNET, "vae": VAE, "text_encoder_2": ("conditioner.embedders.0.model.",)},
)
