"""The networks of reward models: a model that reads image and prompt, and a head on it. Each network has its own file.

Shapes: B images, C, H, W their pixels, L the features of each, E the input width of the head; T tokens, K the sum of
the widths of the head's layers with a dropout.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.models.artefact import ModelArtefact
from agfsync.scorers.heads import LAYER, Activation, Head
from agfsync.scorers.pixels import PixelProcessor

BLOCK = re.compile(r"(?:^|\.)(?:block|layers?)\.(\d+)\.")
"""Matches the number of a block in the name of a tower's parameter."""
FIRST = re.compile(r"embed|pre_layrnorm")
"""Matches the names of the parameters before a tower's blocks."""

HeadShape = tuple[Sequence[int], Activation, int]
"""Hidden widths, activation and seed of a new head."""
Place = tuple[str, str | None, str, str]
"""Path, revision, dtype and device of the towers."""
Tokens = Mapping[str, Tensor]
"""`input_ids` and `attention_mask` of prompts, int64 (B, T), padded on the right."""


class RewardNetwork(nn.Module, ABC):
    """Towers and a head, `mlp`. It draws no dropout: `forward` takes the factors as `kept_BK`."""

    towers: Sequence[str]
    """the names of the parts with blocks"""
    mlp: Head

    @abstractmethod
    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        """Return the head's input for normalised images and their prompts, fp32 (B, E)."""
        ...

    def forward(self, pixels_BCHW: Tensor, tokens: Tokens, kept_BK: Tensor | None = None) -> Tensor:
        """Return the head's outputs, fp32 (B,)."""
        outputs: Tensor = self.mlp(self.embed(pixels_BCHW, tokens), kept_BK)
        return outputs

    @abstractmethod
    def list_tensors(self) -> dict[str, Tensor]:
        """Return the weights by their names in a file."""
        ...

    def freeze(self, share: float) -> None:
        """Freeze the first `share`, in 0..1, of each tower's blocks and the parameters before them; train the others.

        The number of blocks is rounded down: 0.7 of 24 blocks are 16, of 12 are 8, as in ImageReward's code. With 1
        only the head is trained.
        """
        self.requires_grad_(share < 1)
        for tower in map(self.get_submodule, self.towers):
            freeze_blocks(tower, share)
        self.mlp.requires_grad_(True)


def freeze_blocks(tower: nn.Module, share: float) -> None:
    """Freeze the first `share` of a tower's blocks; if that is at least one, also the parameters before them."""
    found = {name: BLOCK.search(name) for name, _ in tower.named_parameters()}
    count = int(share * (1 + max(int(block[1]) for block in found.values() if block)))
    for name, parameter in tower.named_parameters():
        block = found[name]
        if int(block[1]) < count if block else count and FIRST.search(name):
            parameter.requires_grad_(False)


class RewardModel(ABC):
    """A reward network with tokenizer and image processor, for training and scoring.

    `path` is a folder or hub id of the towers. `weights` replace the towers' own: a safetensors file, or a folder or
    hub id that has one. A head among the weights is used; if there is none, a new one has layers of the widths `hidden`
    and weights drawn with `seed`. `scale` is the mean and standard deviation that standardise outputs to rewards.
    """

    type: str
    takes: str
    """the model_type of supported configurations"""

    def __init__(
        self,
        *,
        path: str,
        weights: str | None = None,
        revision: str | None = None,
        hidden: Sequence[int] = (),
        activation: Activation = "none",
        side: int | None = None,
        seed: int = 0,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self.name, self.scale = weights or path, (0.0, 1.0)
        tensors = pretrained.load_tensors(self.name, None if weights else revision)
        self.config = pretrained.load_config(path, revision)
        if self.config.model_type != self.takes:
            raise ModelError(f"{path} is a {self.config.model_type} model: a {self.type} takes {self.takes}")
        self.tokenizer = pretrained.load_tokenizer(path, revision)
        place = path, revision, dtype, device
        self.network, self.processor = self._build(tensors, (hidden, activation, seed), side, place)
        self._pixel_processor = PixelProcessor(self.processor, path)
        self.network.to(pretrained.torch_device(device)).eval()

    @abstractmethod
    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        """Return the network and its image processor."""
        ...

    @property
    @abstractmethod
    def limit(self) -> int:
        """The most tokens of a prompt, with start and end token."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def resize_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Resize and crop images with the network's processor: uint8 (B, 3, H, W) on the CPU."""
        files = self.processor([each.convert("RGB") for each in images], do_rescale=False, do_normalize=False)
        return torch.stack([torch.as_tensor(each) for each in files["pixel_values"]]).to(torch.uint8)

    def standardise_images(self, resized_BCHW: Tensor) -> Tensor:
        """Normalise resized images to the network's input, fp32 on their device."""
        return self._pixel_processor.standardise(resized_BCHW.float() / 255)

    def process_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the network's input for RGB pixels in 0..1, (B, 3, H, W), with their gradient."""
        return self._pixel_processor(pixels_BCHW)["pixel_values"]

    def tokenize(self, prompts: Sequence[str]) -> tuple[dict[str, Tensor], list[bool]]:
        """Return the prompts' tokens, padded to the longest, on the CPU, and True for each that was truncated."""
        lengths = [len(ids) for ids in self.tokenizer(list(prompts), verbose=False)["input_ids"]]
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt"
        )
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return kept, [length > self.limit for length in lengths]

    def save(self, folder: Path) -> None:
        """Write weights, configuration, tokenizer, image processor and `model.json` to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        tensors = {name: each.detach().cpu().contiguous() for name, each in self.network.list_tensors().items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        head = {name: self.network.mlp.config[name] for name in ("hidden", "activation")}
        ModelArtefact("reward", {"type": self.type, **head}, scale=self.scale).save(folder)


def make_head(
    tensors: Mapping[str, Tensor], name: str, width: int, hidden: Sequence[int], activation: Activation, seed: int
) -> Head:
    """Return the head among the `tensors` of `name`, or a new one for inputs of `width`, in fp32.

    New weights are normal with the variance 1 / (inputs + 1), biases are 0, so that the first outputs are of order 1.

    Raises:
        ModelError: there is no head and `hidden` is empty, or the head has another width.
    """
    if not hidden or any(LAYER.match(key) for key in tensors):
        head = Head.from_tensors({key: each for key, each in tensors.items() if LAYER.match(key)}, name, activation)
        if head.embedding_dim != width:
            raise ModelError(f"{name}: its head reads {head.embedding_dim} numbers, the network gives {width}")
        return head
    head, source = Head(width, hidden, activation), torch.Generator().manual_seed(seed)
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(layer.in_features + 1) ** -0.5, generator=source)
            nn.init.zeros_(layer.bias)
    return head.eval()


def add_head(tensors: Mapping[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Return the weights of a transformers model, each tied tensor once, and the head's as `mlp.layers.N`."""
    places = {(each.data_ptr(), each.shape): name for name, each in reversed(list(tensors.items()))}
    named = {f"mlp.{name}": each for name, each in head.state_dict().items()}
    return {name: tensors[name] for name in reversed(list(places.values()))} | named
