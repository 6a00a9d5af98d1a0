"""A tiny generator to steer, and drawings as numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from agfsync import catalog

PROMPTS = ("a red circle and a blue star", "two small green squares", "red", "a star")
"""The third has neither noun nor phrase; the last has a noun and no modifier."""


@pytest.fixture(scope="session")
def build(tiny_generator: Path) -> Callable[..., Any]:
    """Build the tiny generator, steered by a method and its settings."""

    def build_generator(method: str | None = None, drawing: Any = None, **settings: Any) -> Any:
        steered = {"steering": {"type": method, "parser": "shapes", **settings}} if method else {}
        sampling = {"steps": 4, "guidance": 3.0, "scheduler": "ddim", "dtype": "fp32", "device": "cpu"}
        return catalog.build(
            "models",
            {"type": "stable-diffusion", "path": str(tiny_generator), **sampling, **(drawing or {}), **steered},
        )

    return build_generator


@pytest.fixture(scope="session")
def draw() -> Callable[..., Any]:
    """Draw prompts from the seeds 1, 2, ...: int (B, H, W, 3)."""

    def draw_pixels(generator: Any, prompts: Sequence[str] = PROMPTS, noise: float = 0.0, first: int = 1) -> Any:
        seeds = range(first, first + len(prompts))
        return np.stack([np.asarray(image, int) for image in generator.draw(prompts, list(seeds), noise)])

    return draw_pixels


class Keeping(AttnProcessor):
    """The plain processor of diffusers, whose attention is computed and kept."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *a: Any, **k: Any) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        self.kept.append(attn.get_attention_scores(query, key).unflatten(0, (-1, attn.heads)))
        return super().__call__(attn, hidden_states, encoder_hidden_states, *a, **k)


@pytest.fixture(scope="session")
def read_maps() -> Callable[..., Tensor]:
    """Run the tiny UNet by diffusers' plain processor; return its mean maps (rows, tokens, cells)."""

    def read(network: Any, *inputs: Any) -> Tensor:
        kept: list[Tensor] = []
        layers = [layer for name, layer in network.named_modules() if name.endswith("attn2")]
        before = [layer.processor for layer in layers]
        for layer in layers:
            layer.set_processor(Keeping(kept))
        network(*inputs)
        for layer, processor in zip(layers, before, strict=True):
            layer.set_processor(processor)
        return torch.cat(kept, 1).mean(1).transpose(1, 2)

    return read
