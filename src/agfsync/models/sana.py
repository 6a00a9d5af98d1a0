"""The type `sana`: Sana 1.0 and 1.5, and every other model that is saved as a diffusers `SanaPipeline`."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import SanaPipeline
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT_STATES, Architecture, Conditioning, ImageSides, Size
from agfsync.models.flow_matching import TEXT_MASK, Family, FlowMatching, check_classifier_free
from agfsync.models.loading import silence_libraries

INSTRUCTION: Sequence[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
"""the instruction that diffusers' pipeline puts before a prompt, but not before the negative prompt"""


def _encode_prompts(pipeline: Any, prompts: Sequence[str], size: Size) -> Conditioning:
    """Return the language model's states and their mask. The empty prompt means "no prompt" and has no instruction."""
    said = _encode(pipeline, prompts, INSTRUCTION)
    if all(prompts):
        return said
    unsaid, silent_U = _encode_negative(pipeline, ""), torch.tensor([not prompt for prompt in prompts])
    return {
        name: torch.where(silent_U.view(-1, *[1] * (each.dim() - 1)).to(each.device), unsaid[name], each)
        for name, each in said.items()
    }


def _encode_negative(pipeline: Any, prompt: str) -> Conditioning:
    return _encode(pipeline, [prompt], None)


def _encode(pipeline: Any, prompts: Sequence[str], instruction: Sequence[str] | None) -> Conditioning:
    with silence_libraries():
        text_UTD, mask_UT, _, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, complex_human_instruction=instruction
        )
    return {TEXT_STATES: text_UTD.float(), TEXT_MASK: mask_UT.bool()}


def _find_sides(pipeline: Any) -> ImageSides:
    config, scale = pipeline.transformer.config, pipeline.vae_scale_factor
    return ImageSides(scale * config.patch_size, config.sample_size * scale)


def _check_settings(pipeline: Any, guidance: float, negative_prompt: str) -> None:
    config = pipeline.transformer.config
    if config.guidance_embeds or config.out_channels != config.in_channels:
        raise ModelError("this sana is told its guidance or predicts a variance: the type takes neither")
    check_classifier_free(pipeline, guidance, negative_prompt)


def _predict_velocity(
    network: Any, noisy_BCHW: Tensor, timesteps_B: Tensor, arguments: dict[str, Any], guidance: float
) -> Tensor:
    scaled_B = timesteps_B * network.config.timestep_scale
    predicted: Tensor = network(noisy_BCHW, timestep=scaled_B, **arguments).sample
    return predicted


SANA_ARCHITECTURE = Architecture(
    name="sana",
    pipeline=SanaPipeline,
    encode=_encode_prompts,
    arguments=lambda given: {"encoder_hidden_states": given[TEXT_STATES], "encoder_attention_mask": given[TEXT_MASK]},
    sides=_find_sides,
)
_FAMILY = Family(
    SANA_ARCHITECTURE,
    check=_check_settings,
    predict=_predict_velocity,
    even_sigmas=False,
    encode_negative=_encode_negative,
)
Sana = partial(FlowMatching, _FAMILY)
"""Takes the model and the keywords of `FlowMatching`."""
