"""What SDXL's base and its refiner have in common: how their networks are spoken to.

Legend: U prompts, T tokens, D width of an encoder's embeddings, E width of the pooled one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from agfsync.models.architecture import TEXT, Conditioning, token_ids

POOLED = "text_embeds_BE"
TIME_IDS = "time_ids_BI"
"""Sizes in pixels, and what else there is; six numbers of the base, five of the refiner."""


def arguments(conditioning: Conditioning) -> dict[str, Any]:
    """What the UNet calls it."""
    added = {"text_embeds": conditioning[POOLED], "time_ids": conditioning[TIME_IDS]}
    return {"encoder_hidden_states": conditioning[TEXT], "added_cond_kwargs": added}


def read(encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> tuple[Tensor, Any]:
    """The encoder's last hidden states but one, float32 (U, T, D), and all else that it says."""
    output = encoder(token_ids(tokenizer, prompts, encoder.device), output_hidden_states=True)
    return output.hidden_states[-2].float(), output


def silenced(pipeline: Any, prompts: Sequence[str], text_UTD: Tensor, pooled_UE: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for no prompt, where the pipeline's configuration says that the model was trained so."""
    if not pipeline.config.force_zeros_for_empty_prompt:
        return text_UTD, pooled_UE
    silent_U = torch.tensor([not prompt for prompt in prompts], device=text_UTD.device)
    return text_UTD.masked_fill(silent_U[:, None, None], 0), pooled_UE.masked_fill(silent_U[:, None], 0)


def numbers(values: Sequence[float], device: torch.device, rows: int) -> Tensor:
    """`values` as time ids, float32, in each of `rows` rows."""
    return torch.tensor([[*values]] * rows, dtype=torch.float32, device=device)
