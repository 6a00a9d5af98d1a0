"""The small network on top of a scorer's embedding: LAION's predictors, ImageReward's, and this project's own.

The layouts below are supported, as a safetensors file, or as model.safetensors of a folder or hub id:

    layers.N.weight, layers.N.bias        LAION V2, ImageReward (as mlp.layers.N), and this project's own
    weight, bias                          LAION V1, a single linear layer
    predictor.weight, predictor.bias      LAION V1 as ported to transformers

Other tensors, such as those of a CLIP in the same file, are ignored. LAION and ImageReward count dropouts and
activations as layers: with N = 0, 2, 4, 6, 7 there are no activations, with 0, 3, 6, 9, 11 there is a ReLU after each
hidden layer. This project's own heads name the activation in `config.json`.

Shapes: B embeddings, E their width.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from safetensors.torch import save_model
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.models.hub_errors import loading_errors

Activation = Literal["none", "relu"]
LAYER = re.compile(r"^(?:mlp\.)?layers\.(\d+)\.(weight|bias)$")
LINEAR = re.compile(r"^(?:predictor\.)?(weight|bias)$")


class Head(nn.Module):
    """A multilayer perceptron from an embedding to one number.

    The defaults are the layers of LAION's V2 on CLIP-L/14 and of ImageReward: `layers.N.weight`, where N also counts
    the dropouts, without activations.

    A head's folder has `config.json` (`embedding_dim`, `hidden`, `activation`) and `model.safetensors`.
    """

    def __init__(
        self, embedding_dim: int = 768, hidden: Sequence[int] = (1024, 128, 64, 16), activation: Activation = "none"
    ) -> None:
        super().__init__()
        self.config = {"embedding_dim": embedding_dim, "hidden": list(hidden), "activation": activation}
        self.embedding_dim = embedding_dim
        self.layers = nn.Sequential(*_make_layers(embedding_dim, list(hidden)))
        self._activate = nn.functional.relu if activation == "relu" else nn.Identity()
        self.dropped_widths = list(hidden[:-1])
        """widths of the layers that a dropout follows"""

    def forward(self, embeddings_BE: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Return the head's output for the embeddings, (B,). It isn't clamped, so that every error has a gradient.

        `kept_BK` replaces the dropouts: the factors of the outputs of all layers in `dropped_widths`, concatenated.
        """
        *hidden, last = self.layers
        factors = iter(() if kept_BK is None else kept_BK.split(self.dropped_widths, dim=1))
        for layer in hidden:
            if isinstance(layer, nn.Linear):
                embeddings_BE = self._activate(layer(embeddings_BE))
            else:
                embeddings_BE = layer(embeddings_BE) if kept_BK is None else embeddings_BE * next(factors)
        ratings: Tensor = last(embeddings_BE).squeeze(-1)
        return ratings

    def save(self, folder: Path) -> None:
        """Write the head to `folder`, in its dtype."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))

    @classmethod
    def load(cls, place: Path | str) -> Self:
        """Load the head from a file, folder or hub id, in any of the layouts above, in fp32 and evaluation mode.

        Raises:
            ModelError: there is none, or its tensors don't fit each other or the folder's `config.json`.
        """
        tensors = pretrained.load_tensors(str(place))
        settings = pretrained.load_settings(str(place))
        head = cls.from_tensors(tensors, str(place), settings.get("activation"))
        hidden = head.config["hidden"]
        if settings.get("hidden", hidden) != hidden:
            raise ModelError(
                f"{place}: config.json says hidden {settings['hidden']}, the tensors {hidden}: mend either"
            )
        return head

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], name: str, activation: Activation | None = None) -> Self:
        """Return the head in `tensors`; `activation` replaces the one that their numbering implies."""
        layers = _group_by_number(tensors)
        weights = [layer["weight"] for layer in layers.values() if "weight" in layer]
        if not weights or any(set(layer) != {"weight", "bias"} for layer in layers.values()):
            raise ModelError(f"can't load the model {name}: it holds no head, or a part of one")
        if activation is None:
            activation = "relu" if len(layers) > 1 and list(layers)[1] == 3 else "none"
        head = cls(weights[0].shape[1], [len(weight) for weight in weights[:-1]], activation)
        linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
        with loading_errors(name):
            for layer, state in zip(linear, layers.values(), strict=True):
                layer.load_state_dict(state)
        return head.float().eval()


def _group_by_number(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the weight and bias of each linear layer of the head by its number, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if layer := LAYER.match(name):
            found.setdefault(int(layer[1]), {})[layer[2]] = tensor
        elif linear := LINEAR.match(name):
            found.setdefault(0, {})[linear[1]] = tensor
    return dict(sorted(found.items()))


def _make_layers(embedding_dim: int, hidden: list[int]) -> list[nn.Module]:
    """Return linear layers, with a dropout after each hidden layer except the last, as in LAION's predictor."""
    widths = [embedding_dim, *hidden]
    layers: list[nn.Module] = []
    for n, (width, next_width) in enumerate(zip(widths, hidden, strict=False), start=1):
        layers.append(nn.Linear(width, next_width))
        if n < len(hidden):
            layers.append(nn.Dropout(0.2))
    return [*layers, nn.Linear(widths[-1], 1)]
