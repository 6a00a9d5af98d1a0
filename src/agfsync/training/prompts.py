"""The data of methods that draw images in training: prompts, their conditioning, and the rewards."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agfsync.models.architecture import Conditioning
from agfsync.records import Question
from agfsync.training.rewards import Rewards


@dataclass(frozen=True, slots=True)
class PromptData:
    """The prompts to draw, each with its questions and a row of `conditioning`, and the rewards of the images.

    `unprompted` is the conditioning of the negative prompt, one row, for classifier-free guidance.
    """

    prompts: Sequence[str]
    questions: Sequence[tuple[Question, ...]]
    conditioning: Conditioning
    unprompted: Conditioning
    rewards: Rewards = field(repr=False)

    def __len__(self) -> int:
        return len(self.prompts)

    def make_conditioning(self, rows_B: Tensor, device: torch.device) -> Conditioning:
        """Return the conditioning of the prompts at `rows_B`, int64 (B,), on `device`."""
        return {name: tensor[rows_B].to(device) for name, tensor in self.conditioning.items()}

    def make_unprompted(self, count: int, device: torch.device) -> Conditioning:
        """Return the conditioning of the negative prompt, `count` rows on `device`."""
        return {name: tensor.to(device).expand(count, *tensor.shape[1:]) for name, tensor in self.unprompted.items()}
