"""The networks of reward models: a BLIP or a CLIP that sees the image and reads the prompt, and a head on it.

blip-head is ImageReward's build (Xu et al. 2023, arXiv:2304.05977), which VP-Score takes too (Wu et al. 2024,
arXiv:2404.15100): the image goes through the vision tower, the prompt through a text encoder that attends to it, and
the head reads the first token, [CLS], of its output. clip-head reads both embeddings of a CLIP, each of length 1: the
image's times the root of its width, then the products of the image's and the prompt's coordinates times the width, so
that all are of the order of 1. Without the products a head without activations could not see how well they fit.

ImageReward's weights have the names of BLIP's first implementation:

    published                             transformers
    blip.visual_encoder                   vision_model
        cls_token, pos_embed                  embeddings.class_embedding, embeddings.position_embedding
        patch_embed.proj                      embeddings.patch_embedding
        blocks.N                              encoder.layers.N
            norm1, norm2                          layer_norm1, layer_norm2
            attn.qkv, attn.proj                   self_attn.qkv, self_attn.projection
        norm                                  post_layernorm
    blip.text_encoder                     text_encoder
    mlp.layers.N                          the head's layers

Shapes: B images, C, H, W their pixels, L the features of each, E the width that the head reads; T tokens, K the widths
of the head's layers with a dropout, one after the other.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BlipTextModel, BlipVisionModel, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.models.artefact import ModelArtefact
from agfsync.scorers import open_clip
from agfsync.scorers.heads import LAYER, Activation, Head
from agfsync.scorers.pixels import PixelProcessor

MOST_TOKENS = 35
"""The most tokens of a prompt in ImageReward's training, with its start and end."""
NORM_EPS = 1e-6
"""The epsilon of the vision tower's layer norms, as published; transformers' BLIP has 1e-5."""
VISION, TEXT = "vision_model.", "text_encoder."
BLIP_NAMES: Mapping[str, str] = {
    r"^blip\.": "",
    r"^visual_encoder\.": VISION,
    rf"^{VISION}cls_token$": f"{VISION}embeddings.class_embedding",
    rf"^{VISION}pos_embed$": f"{VISION}embeddings.position_embedding",
    rf"^{VISION}patch_embed\.proj\.": f"{VISION}embeddings.patch_embedding.",
    rf"^{VISION}blocks\.": f"{VISION}encoder.layers.",
    rf"^{VISION}norm\.": f"{VISION}post_layernorm.",
    rf"^({VISION}.*)\.norm([12])\.": r"\1.layer_norm\2.",
    rf"^({VISION}.*)\.attn\.qkv\.": r"\1.self_attn.qkv.",
    rf"^({VISION}.*)\.attn\.proj\.": r"\1.self_attn.projection.",
}
POSITIONS = f"{VISION}embeddings.position_embedding"
BLOCK = re.compile(r"\.layers?\.(\d+)\.")
"""The number of a block in the name of a tower's parameter."""
FIRST = re.compile(r"embeddings|pre_layrnorm")
"""Parts of a tower before its blocks."""

HeadShape = tuple[Sequence[int], Activation, int]
"""The hidden widths, the activation and the seed of a new head."""
Place = tuple[str, str | None, str, str]
"""The path, the revision, the dtype and the device of the towers."""
Tokens = Mapping[str, Tensor]
"""`input_ids` and `attention_mask` of prompts, int64 (B, T), padded on the right."""


class RewardNetwork(nn.Module, ABC):
    """Towers and a head, `mlp`. It has no dropout of its own: `forward` takes what a step leaves out."""

    towers: Sequence[str]
    """the names of the parts with blocks"""
    mlp: Head

    @abstractmethod
    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        """Return what the head reads of images, as the processor standardises them, and their prompts: fp32 (B, E)."""
        ...

    def forward(self, pixels_BCHW: Tensor, tokens: Tokens, kept_BK: Tensor | None = None) -> Tensor:
        """Return the outputs of the head, fp32 (B,)."""
        outputs: Tensor = self.mlp(self.embed(pixels_BCHW, tokens), kept_BK)
        return outputs

    @abstractmethod
    def list_tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names that they have in a file."""
        ...

    def freeze(self, share: float) -> None:
        """Train all but the first `share` of the blocks of each tower, in 0..1, and what lies before them.

        The number of blocks is rounded down, so that 0.7 of 24 and of 12 are 16 and 8, as in ImageReward's code. With
        1 only the head is trained.
        """
        self.requires_grad_(share < 1)
        for tower in map(self.get_submodule, self.towers):
            freeze_blocks(tower, share)
        self.mlp.requires_grad_(True)


def freeze_blocks(tower: nn.Module, share: float) -> None:
    """Freeze the first `share` of a tower's blocks, and its embeddings if that is at least one block."""
    found = {name: BLOCK.search(name) for name, _ in tower.named_parameters()}
    count = int(share * (1 + max(int(block[1]) for block in found.values() if block)))
    for name, parameter in tower.named_parameters():
        block = found[name]
        if int(block[1]) < count if block else count and FIRST.search(name):
            parameter.requires_grad_(False)


class BlipHead(RewardNetwork):
    """An image-grounded BLIP text encoder with a head on its first token."""

    towers = ("vision_model", "text_encoder")

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel, head: Head) -> None:
        super().__init__()
        self.vision_model, self.text_encoder, self.mlp = vision, text, head

    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        features_BLD = self.vision_model(pixels_BCHW.to(self.vision_model.dtype)).last_hidden_state
        states_BTE = self.text_encoder(**tokens, encoder_hidden_states=features_BLD).last_hidden_state
        first_BE: Tensor = states_BTE[:, 0].float()
        return first_BE

    def list_tensors(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


class ClipHead(RewardNetwork):
    """A head on a CLIP's embedding of the image, and on its products with that of the prompt."""

    towers = ("clip.vision_model", "clip.text_model")

    def __init__(self, clip: CLIPModel, head: Head) -> None:
        super().__init__()
        self.clip, self.mlp = clip, head

    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        images_BD = self.clip.get_image_features(pixels_BCHW.to(self.clip.dtype)).pooler_output.float()
        texts_BD = self.clip.get_text_features(**tokens).pooler_output.float()
        return join_embeddings(images_BD, texts_BD)

    def freeze(self, share: float) -> None:
        super().freeze(share)
        self.clip.logit_scale.requires_grad_(False)

    def list_tensors(self) -> dict[str, Tensor]:
        return {**self.clip.state_dict(), **{f"mlp.{name}": each for name, each in self.mlp.state_dict().items()}}


def join_embeddings(images_BD: Tensor, texts_BD: Tensor) -> Tensor:
    """Return clip-head's features of embeddings of any length: the image's, and its products with the prompt's, B2D."""
    images_BD, texts_BD, width = F.normalize(images_BD, dim=-1), F.normalize(texts_BD, dim=-1), images_BD.shape[-1]
    return torch.cat([math.sqrt(width) * images_BD, width * images_BD * texts_BD], dim=-1)


class RewardModel(ABC):
    """A reward network with what prepares its inputs; what is trained, saved and scored with.

    `path` is a folder or hub id of the towers, `weights` a safetensors file, or a folder or hub id of one, in the place
    of theirs. A head among the weights is taken; without one, `hidden` are the widths of a new head's layers, and
    `seed` gives its weights. `scale` is the mean and deviation by which outputs become rewards.
    """

    type: str

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
        """The most tokens of a prompt, with its start and end."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def resize_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the images as the network's processor resizes and crops them, uint8 (B, 3, H, W) on the CPU."""
        files = self.processor([each.convert("RGB") for each in images], do_rescale=False, do_normalize=False)
        return torch.stack([torch.as_tensor(each) for each in files["pixel_values"]]).to(torch.uint8)

    def standardise_images(self, resized_BCHW: Tensor) -> Tensor:
        """Return the network's input of images that were resized, fp32 on their device."""
        return self._pixel_processor.standardise(resized_BCHW.float() / 255)

    def process_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the network's input of RGB pixels in 0..1, (B, 3, H, W), with their gradient."""
        return self._pixel_processor(pixels_BCHW)["pixel_values"]

    def tokenize(self, prompts: Sequence[str]) -> tuple[dict[str, Tensor], list[bool]]:
        """Return the prompts' tokens, padded to the longest, on the CPU; and True for each that was cut."""
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


class BlipReward(RewardModel):
    """A model with the network `blip-head`. Its own weights may have ImageReward's names or transformers'."""

    type = "blip-head"

    @property
    def limit(self) -> int:
        return MOST_TOKENS

    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        path, _, dtype, device = place
        if self.config.model_type != "blip":
            raise ModelError(f"{path} is a {self.config.model_type} model: a blip-head takes blip")
        tensors = rename_tensors(tensors)
        if POSITIONS not in tensors:
            raise ModelError(f"{self.name} holds no BLIP with a vision tower: give ImageReward's as weights")
        seeing = self.config.vision_config
        if side is not None:
            tensors[POSITIONS] = resize_positions(tensors[POSITIONS], side // seeing.patch_size)
        # Its authors' images measure 224 pixels, those of the BLIPs that lend a configuration mostly 384.
        seeing.image_size = math.isqrt(tensors[POSITIONS].shape[1] - 1) * seeing.patch_size
        seeing.layer_norm_eps = NORM_EPS
        parts = [{n.removeprefix(of): t for n, t in tensors.items() if n.startswith(of)} for of in (VISION, TEXT)]
        vision = pretrained.fill_model(BlipVisionModel, seeing, parts[0], self.name, dtype, device)
        text = pretrained.fill_model(
            BlipTextModel, self.config.text_config, parts[1], self.name, dtype, device, add_pooling_layer=False
        )
        size = {"height": seeing.image_size, "width": seeing.image_size}
        # Its authors scale the shorter side and crop, as CLIP does, where BLIP's own processor would squeeze.
        processor = CLIPImageProcessorPil(size={"shortest_edge": seeing.image_size}, crop_size=size)
        return BlipHead(vision, text, make_head(tensors, self.name, text.config.hidden_size, *head)), processor


class ClipReward(RewardModel):
    """A model with the network `clip-head`."""

    type = "clip-head"

    @property
    def limit(self) -> int:
        most: int = self.config.text_config.max_position_embeddings
        return most

    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        path, revision, dtype, device = place
        if self.config.model_type != "clip":
            raise ModelError(f"{path} is a {self.config.model_type} model: a clip-head takes clip")
        named = open_clip.in_transformers_names(tensors)
        clip = pretrained.fill_model(CLIPModel, self.config, named, self.name, dtype, device)
        found = make_head(tensors, self.name, 2 * self.config.projection_dim, *head)
        return ClipHead(clip, found), pretrained.load_image_processor(path, revision)


def make_head(
    tensors: Mapping[str, Tensor], name: str, width: int, hidden: Sequence[int], activation: Activation, seed: int
) -> Head:
    """Return the head among the `tensors` of `name`, or one of new weights for inputs of `width`, in fp32.

    New weights are normal with the variance 1 / (inputs + 1), the biases 0, so that outputs begin at the order of 1.

    Raises:
        ModelError: there is none, and `hidden` is empty.
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


def rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a BLIP's tensors by transformers' names; those that have them keep them."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in BLIP_NAMES.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings, 1 x (1 + patches) x D, for a square of `side` patches, by bicubic interpolation."""
    first, rest = positions[:, :1], positions[:, 1:]
    before = math.isqrt(rest.shape[1])
    if before == side:
        return positions
    grid = rest.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return torch.cat([first, resized.to(positions.dtype)], dim=1)
