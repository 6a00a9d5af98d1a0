"""The network `blip2-head`: the language model of a BLIP-2 reads image and prompt, and a head reads its last layer.

As in HPSv3 (Ma et al. 2025, arXiv:2508.03789), the backbone is a language model that sees the image. The Q-Former turns
the image into tokens (Li et al. 2023, arXiv:2301.12597), which precede the prompt's. With a T5 the head reads the
decoder's first state, with an OPT the state of the last token.

Vision tower, Q-Former and word embeddings are frozen, as in BLIP-2's own training, which also freezes the language
model.

Shapes: B images, C, H, W their pixels, L the image's tokens, T all tokens, E the language model's width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from agfsync.models import pretrained
from agfsync.scorers.heads import Head
from agfsync.scorers.reward_networks import HeadShape, Place, RewardModel, RewardNetwork, Tokens, add_head, make_head

LONGEST_PROMPT = 128
"""The most tokens of a prompt, with its end token."""


class Blip2Head(RewardNetwork):
    """A BLIP-2 with a head on a state of its language model's last layer."""

    def __init__(self, blip2: Any, head: Head) -> None:
        super().__init__()
        self.blip2, self.mlp = blip2, head
        self.has_encoder: bool = not blip2.config.use_decoder_only_language_model
        parts = ("encoder", "decoder") if self.has_encoder else ("model",)
        self.towers = [f"blip2.language_model.{part}" for part in parts]

    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        language = self.blip2.language_model
        features_BLE = self.blip2.get_image_features(pixels_BCHW.to(self.blip2.dtype)).pooler_output
        words_BTE = language.get_input_embeddings()(tokens["input_ids"])
        inputs_BTE = torch.cat([features_BLE.to(words_BTE.dtype), words_BTE], dim=1)
        seen = tokens["attention_mask"].new_ones(features_BLE.shape[:2])
        mask_BT = torch.cat([seen, tokens["attention_mask"]], dim=1)
        if not self.has_encoder:
            states_BTE = language.model(inputs_embeds=inputs_BTE, attention_mask=mask_BT, use_cache=False)[0]
            return _pick(states_BTE, mask_BT.sum(1) - 1)
        encoded_BTE = language.encoder(inputs_embeds=inputs_BTE, attention_mask=mask_BT).last_hidden_state
        start_B1 = mask_BT.new_full((len(mask_BT), 1), self.blip2.config.text_config.decoder_start_token_id)
        states_BTE = language.decoder(
            input_ids=start_B1, encoder_hidden_states=encoded_BTE, encoder_attention_mask=mask_BT, use_cache=False
        ).last_hidden_state
        return _pick(states_BTE, torch.zeros_like(mask_BT[:, 0]))

    def freeze(self, share: float) -> None:
        """Freeze all except the head and the language model's blocks after the first `share`, in 0..1."""
        super().freeze(share)
        towers = tuple(f"{tower}." for tower in self.towers)
        for name, parameter in self.blip2.named_parameters(prefix="blip2"):
            if not name.startswith(towers) or "embed" in name:
                parameter.requires_grad_(False)

    def list_tensors(self) -> dict[str, Tensor]:
        return add_head(self.blip2.state_dict(), self.mlp)


def _pick(states_BTE: Tensor, places_B: Tensor) -> Tensor:
    """Return the state at one position of each row, fp32 (B, E)."""
    return states_BTE[torch.arange(len(states_BTE), device=states_BTE.device), places_B].float()


class Blip2Reward(RewardModel):
    """A model with the network `blip2-head`."""

    type, takes = "blip2-head", "blip-2"

    @property
    def limit(self) -> int:
        return LONGEST_PROMPT

    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        path, revision, dtype, device = place
        blip2 = pretrained.fill_model(Blip2ForConditionalGeneration, self.config, tensors, self.name, dtype, device)
        self.tokenizer.padding_side = "right"
        made = make_head(tensors, self.name, self.config.text_config.hidden_size, *head)
        return Blip2Head(blip2, made), pretrained.load_image_processor(path, revision)
