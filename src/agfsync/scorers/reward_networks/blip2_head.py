"""The network `blip2-head`: a BLIP-2 whose language model reads the image and the prompt, and a head on its last state.

As in HPSv3 (Ma et al. 2025, arXiv:2508.03789), a language model that sees the image is the backbone. The Q-Former makes
tokens of the image (Li et al. 2023, arXiv:2301.12597), and the prompt's follow. The head reads the first state of the
decoder of a T5, or the state of the last token of an OPT.

Vision tower, Q-Former and word embeddings stay as they are, as in BLIP-2's own training, where the language model does
too.

Shapes: B images, C, H, W their pixels, T the image's and the prompt's tokens, E the language model's width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from agfsync.models import pretrained
from agfsync.scorers.heads import Head
from agfsync.scorers.reward_networks import HeadShape, Place, RewardModel, RewardNetwork, Tokens, add_head, make_head

MOST_TOKENS = 128
"""The most tokens of a prompt, with its end."""


class Blip2Head(RewardNetwork):
    """A BLIP-2 with a head on its language model's last state."""

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
        """Train all but the first `share` of the language model's blocks, in 0..1."""
        super().freeze(share)
        towers = tuple(f"{tower}." for tower in self.towers)
        for name, parameter in self.blip2.named_parameters(prefix="blip2"):
            if not name.startswith(towers) or "embed" in name:
                parameter.requires_grad_(False)

    def list_tensors(self) -> dict[str, Tensor]:
        return add_head(self.blip2.state_dict(), self.mlp)


def _pick(states_BTE: Tensor, places_B: Tensor) -> Tensor:
    """Return the state at one place of each row, fp32 (B, E)."""
    return states_BTE[torch.arange(len(states_BTE), device=states_BTE.device), places_B].float()


class Blip2Reward(RewardModel):
    """A model with the network `blip2-head`."""

    type, takes = "blip2-head", "blip-2"

    @property
    def limit(self) -> int:
        return MOST_TOKENS

    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        path, revision, dtype, device = place
        blip2 = pretrained.fill_model(Blip2ForConditionalGeneration, self.config, tensors, self.name, dtype, device)
        self.tokenizer.padding_side = "right"
        made = make_head(tensors, self.name, self.config.text_config.hidden_size, *head)
        return Blip2Head(blip2, made), pretrained.load_image_processor(path, revision)
