from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training.batches import EncodedPairs

PROMPTS = ["a red circle", "two green squares", "a large yellow ring"]


@pytest.fixture
def denoiser(tiny_generator: Path) -> StableDiffusion:
    return StableDiffusion(str(tiny_generator), device="cpu")


@pytest.fixture
def pairs(denoiser: StableDiffusion) -> EncodedPairs:
    """Five pairs of random latents on three prompts."""
    latents = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    rows = torch.arange(5)
    return EncodedPairs(latents, denoiser.encode_prompts(PROMPTS), rows, rows + 5, rows % 3)


@pytest.fixture
def nudge() -> Callable[[torch.nn.Module], None]:
    """Moves every trainable weight a little, as training would."""

    def move(network: torch.nn.Module) -> None:
        source = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.02 * torch.randn(parameter.shape, generator=source)

    return move
