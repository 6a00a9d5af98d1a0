"""The fidelity network: predicts the share of whole things in an image, from the image alone.

It is a small convolutional network of this project, trained by `agfsync shapes train` on drawings with known flaws.

Shapes: B images, H x W their pixels.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor, nn

from agfsync.models import pretrained
from agfsync.models.hub_errors import loading_errors
from agfsync.models.latents import to_tensor
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.shapes.scene import SIDE

_GROUPS = 8


class FidelityNetwork(nn.Module):
    """One convolution for each width, all but the first with stride 2, and a linear layer on their mean and maximum."""

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 128)) -> None:
        super().__init__()
        self.widths = list(widths)
        layers: list[nn.Module] = []
        for before, width in zip((3, *widths[:-1]), widths, strict=True):
            stride = 1 if before == 3 else 2
            layers += [nn.Conv2d(before, width, 3, stride, padding=1), nn.GroupNorm(_GROUPS, width), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.rating = nn.Linear(2 * widths[-1], 1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the logit of the share of whole things, (B,), for images in -1..1."""
        features_BCHW = self.features(pixels_BCHW)
        pooled_BC = torch.cat([features_BCHW.mean((2, 3)), features_BCHW.amax((2, 3))], dim=1)
        logits_B: Tensor = self.rating(pooled_BC).squeeze(-1)
        return logits_B

    def save(self, folder: Path) -> None:
        """Write the network to `folder`, in its dtype."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"widths": self.widths}, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))

    @classmethod
    def load(cls, folder: str) -> Self:
        """Load the network from `folder` in fp32 and evaluation mode.

        Raises:
            ModelError: there is none, or its tensors don't fit its `config.json`.
        """
        tensors = pretrained.load_tensors(folder)
        with loading_errors(folder):
            network = cls(pretrained.load_settings(folder)["widths"])
            network.load_state_dict(tensors)
        return network.float().eval()


class ShapesFidelity:
    """Scores an image by 100 x the share of whole things; prompt and questions aren't used."""

    asks_questions = False

    def __init__(self, *, path: str = "embedded:fidelity") -> None:
        self._network = FidelityNetwork.load(path).requires_grad_(False)

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item."""
        if not items:
            return []
        images = [item.image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for item in items]
        shares: list[float] = self._network(to_tensor(images)).sigmoid().tolist()
        return [
            Measurement(100 * s) if math.isfinite(s) else Unscored("the network's rating is not a number")
            for s in shares
        ]
