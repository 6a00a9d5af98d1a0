"""SDXL's refiner, a second network for the last steps in the base's latent space; and inputs that both share.

Legend: B images in the batch, U distinct prompts, T tokens, D width of the second text encoder's embeddings, E width
of the pooled one, C H W latent channels, height, width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from torch import Tensor

from agfsync.models.architecture import NETWORK_PREFIXES, TEXT_STATES, Architecture, Conditioning, Size, token_ids
from agfsync.models.configuration import REFINER_TYPE, check_parts, limit_tokens, parts_of
from agfsync.models.loading import PipelineSource, load_pipeline
from agfsync.models.pretrained import fingerprint_model
from agfsync.models.sampling import add_embedding_noise, encode_with_negative

POOLED_TEXT = "text_embeds_BE"
TIME_IDS = "time_ids_BI"
"""Sizes and crop in pixels, six numbers, for the base; size, crop and aesthetic score, five, for the refiner."""


def xl_arguments(conditioning: Conditioning) -> dict[str, Any]:
    """Return the UNet's keyword arguments."""
    added = {"text_embeds": conditioning[POOLED_TEXT], "time_ids": conditioning[TIME_IDS]}
    return {"encoder_hidden_states": conditioning[TEXT_STATES], "added_cond_kwargs": added}


def encode_text(encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> tuple[Tensor, Any]:
    """Return the encoder's second-to-last hidden states, float32 (U, T, D), and its whole output."""
    output = encoder(token_ids(tokenizer, prompts, encoder.device), output_hidden_states=True)
    return output.hidden_states[-2].float(), output


def zero_empty_prompts(
    pipeline: Any, prompts: Sequence[str], text_UTD: Tensor, pooled_UE: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the embeddings, with those of empty prompts set to 0 if the pipeline's configuration says so."""
    if not pipeline.config.force_zeros_for_empty_prompt:
        return text_UTD, pooled_UE
    silent_U = torch.tensor([not prompt for prompt in prompts], device=text_UTD.device)
    return text_UTD.masked_fill(silent_U[:, None, None], 0), pooled_UE.masked_fill(silent_U[:, None], 0)


def time_ids_of(values: Sequence[float], device: torch.device, rows: int) -> Tensor:
    """Return `values` as time ids, float32, repeated in `rows` rows."""
    return torch.tensor([[*values]] * rows, dtype=torch.float32, device=device)


BEAUTY, UGLINESS = 6.0, 2.5
"""The refiner's aesthetic scores (1 to 10) with and without the prompt, as in SDXL's own pipeline."""


class Refiner:
    """The refiner at `model`, a folder or hub id, which takes over after `from_step` steps of the base.

    Raises:
        ModelError: there is no such model, or it is of another kind.
    """

    def __init__(
        self, model: str, *, revision: str | None, from_step: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._pipeline = load_pipeline(REFINER_ARCHITECTURE, PipelineSource(model, revision), dtype)
        check_parts(REFINER_ARCHITECTURE.name, parts_of(self._pipeline))
        limit_tokens(self._pipeline)
        self._pipeline.unet.to(device)
        self._pipeline.text_encoder_2.to(device)
        self._dtype = dtype
        self.from_step = from_step
        self.identity = [fingerprint_model(model, revision, "model_index.json"), from_step]

    def conditioning(
        self, prompts: Sequence[str], negative: str, size: Size, noise: Mapping[str, Tensor]
    ) -> tuple[Conditioning, Conditioning]:
        """Return the conditioning of the prompts with the base's embedding noise, and of `negative`; B rows each.

        The refiner's only text encoder is the base's second, so it takes the last D numbers of the text's noise.
        """
        with_prompt, without = encode_with_negative(
            lambda texts: _encode_prompts(self._pipeline, texts, size), prompts, negative
        )
        text_BTD = with_prompt[TEXT_STATES]
        seen = {TEXT_STATES: noise[TEXT_STATES][..., -text_BTD.shape[-1] :], POOLED_TEXT: noise[POOLED_TEXT]}
        ugly = time_ids_of([*size, 0, 0, UGLINESS], text_BTD.device, len(prompts))
        return add_embedding_noise(with_prompt, seen), {**without, TIME_IDS: ugly}

    def predict(self, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the refiner's prediction for noisy latents: (B, C, H, W)."""
        arguments = REFINER_ARCHITECTURE.cast(conditioning, self._dtype)
        predicted: Tensor = self._pipeline.unet(noisy_BCHW.to(self._dtype), timesteps_B, **arguments).sample
        return predicted


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Return text (U, T, D), pooled (U, E), and time ids (U, 5): the size, no crop and a high aesthetic score."""
    text_UTD, output = encode_text(pipeline.text_encoder_2, pipeline.tokenizer_2, prompts)
    text_UTD, pooled_UE = zero_empty_prompts(pipeline, prompts, text_UTD, output.text_embeds.float())
    time_ids = time_ids_of([*size, 0, 0, BEAUTY], text_UTD.device, len(prompts))
    return {TEXT_STATES: text_UTD, POOLED_TEXT: pooled_UE, TIME_IDS: time_ids}


REFINER_ARCHITECTURE = Architecture(
    name=REFINER_TYPE,
    pipeline=StableDiffusionXLImg2ImgPipeline,
    embeddings=(TEXT_STATES, POOLED_TEXT),
    encode=_encode_prompts,
    arguments=xl_arguments,
    vae_dtype=lambda vae, dtype: dtype,  # the refiner's own VAE is never used
    extras={"add_watermarker": False},
    marker="conditioner.embedders.0.model.",
    prefixes={**NETWORK_PREFIXES, "text_encoder_2": ("conditioner.embedders.0.model.",)},
)
