"""The type `qwen-image`: Qwen-Image, and every other model that is saved as a diffusers `QwenImagePipeline`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffusers import QwenImagePipeline
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import Architecture, Conditioning, Size
from agfsync.models.flow_matching import (
    JOINT_ATTENTION,
    PATCH,
    TIMESTEPS,
    Family,
    FlowMatching,
    check_classifier_free,
    find_packed_sides,
    masked_text_arguments,
    pack_tokens,
    pad_texts,
    unpack_tokens,
)
from agfsync.models.loading import silence_libraries

_TEXT_TOKENS = 512
"""the most tokens of a prompt; diffusers' pipeline reads 1024, but their states would take 15 MB for each prompt"""


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Return the language model's last hidden states, from the pipeline's own method, and their mask."""
    with silence_libraries():
        text_UTD, mask_UT = pipeline.encode_prompt(list(prompts), max_sequence_length=_TEXT_TOKENS)
    if mask_UT is None:
        return pad_texts(text_UTD, _TEXT_TOKENS)
    return pad_texts([text[mask.bool()] for text, mask in zip(text_UTD, mask_UT, strict=True)], _TEXT_TOKENS)


def _check_settings(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    if pipeline.transformer.config.guidance_embeds:
        raise ModelError(
            "this qwen-image has its guidance built in (guidance_embeds), and the type takes none that has"
        )
    check_classifier_free(pipeline, guidance, negative_prompt)


def _predict_packed(
    network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, arguments: dict[str, Any], guidance: float
) -> Tensor:
    batch, _, height, width = noisy_BCHW.shape
    predicted_BNP = network(
        pack_tokens(noisy_BCHW, PATCH),
        timestep=timesteps_B / TIMESTEPS,
        encoder_hidden_states=arguments["text"],
        encoder_hidden_states_mask=arguments["mask"],
        img_shapes=[[(1, height // PATCH, width // PATCH)]] * batch,
    ).sample
    return unpack_tokens(predicted_BNP, noisy_BCHW, PATCH)


def _keep_norm(guided_BCHW: Tensor, with_BCHW: Tensor) -> Tensor:
    """Return the guided prediction, with each token scaled to its norm in the prediction with the prompt."""
    guided_BNP, with_BNP = pack_tokens(guided_BCHW, PATCH), pack_tokens(with_BCHW, PATCH)
    scale_BN1 = with_BNP.norm(dim=-1, keepdim=True) / guided_BNP.norm(dim=-1, keepdim=True)
    return unpack_tokens(guided_BNP * scale_BN1, guided_BCHW, PATCH)


QWEN_IMAGE_ARCHITECTURE = Architecture(
    name="qwen-image",
    pipeline=QwenImagePipeline,
    encode=_encode_prompts,
    arguments=masked_text_arguments,
    sides=find_packed_sides,
    latent_statistics=("latents_mean", "latents_std"),
    adapter_targets=JOINT_ATTENTION,
)
_FAMILY = Family(QWEN_IMAGE_ARCHITECTURE, check=_check_settings, predict=_predict_packed, rescale=_keep_norm)
QwenImage = partial(FlowMatching, _FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
