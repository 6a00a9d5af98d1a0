"""HPSv3: a Qwen2-VL that reads instructions for a rating, with a head on one of their tokens (Ma et al. 2025).

arXiv:2508.03789; weights MizzenAI/HPSv3, with the configuration, tokenizer and processor of Qwen/Qwen2-VL-7B-Instruct.

The published code (the package hpsv3 1.0.0, on transformers 4.45) calls the decoder without positions, so that they are
0, 1, 2 ... for both image and text, not Qwen2-VL's rows and columns. It resizes an image to about 256 tokens. This
module does both. `hpsv3.txt` is the published text for the model, under the MIT licence.

Shapes: B images, T tokens, D the decoder's width.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor
from transformers import Qwen2VLModel

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers import Item, Measurement, Unscored, measure_reward
from agfsync.scorers.pixels import RESAMPLING, resize_pixels
from agfsync.scorers.vlm import write_prompt

RATING_TEXT = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
"""The published text, with the placeholder {text_prompt} for the prompt, and the token that the head reads."""
REWARD_TOKEN = "<|Reward|>"
IMAGE_TOKENS = 256
REWARD_MIDDLE, REWARD_WIDTH = 5.0, 3.0
"""The reward that gives the value 50, and the increase that gives 73. The published averages of models on the authors'
benchmark range from -0.2 (Stable Diffusion 2) to 10.6; Stable Diffusion XL has 8.2."""
_HEAD = re.compile(r"rm_head\.(\d+)\.(weight|bias)")


class Hpsv3:
    """The scorer: 100 x sigmoid((reward - 5) / 3), where the reward is the published score: the head's first output.

    The order is that of the published score, which is 5 + 3 log(value / (100 - value)).

    `path` is a folder or hub id of a Qwen2-VL that gives configuration, tokenizer and processor. `weights` is a
    safetensors file with HPSv3's weights by their published names, or a folder or hub id that has one; by default they
    are read from `path`.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        weights: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        config = pretrained.load_config(path, revision)
        if config.model_type != "qwen2_vl":
            raise ModelError(f"{path} is a {config.model_type} model: an hpsv3 scorer takes a qwen2_vl")
        self._processor = pretrained.load_processor(path, revision)
        tensors = pretrained.load_tensors(weights or path, None if weights else revision)
        name = weights or path
        self._head = _find_head(tensors, name)
        tensors = {_rename(key): each for key, each in tensors.items() if not key.startswith(("rm_head.", "lm_head."))}
        words = tensors.get("language_model.embed_tokens.weight")
        self._token = self._add_token()
        if words is None or len(words) <= self._token:
            raise ModelError(f"{name} has no row for the token {REWARD_TOKEN}: it isn't HPSv3, or not of {path}")
        config.text_config.vocab_size = len(words)
        self._model = pretrained.fill_model(Qwen2VLModel, config, tensors, name, dtype, device).requires_grad_(False)
        self._head = [(weight.to(self._model.device), bias.to(self._model.device)) for weight, bias in self._head]

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its questions aren't used."""
        return [measure_reward((mean - REWARD_MIDDLE) / REWARD_WIDTH) for mean, _ in self.rate(items)]

    def rewards(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the values of `score` with a gradient; `standardise` undoes the sigmoid, so that it doesn't vanish."""
        height, width = pixels_BCHW.shape[-2:]
        inputs = self._process([Image.new("RGB", (width, height))] * len(prompts), prompts)
        inputs["pixel_values"] = self._cut_patches(pixels_BCHW, inputs["image_grid_thw"][0])
        rewards_B = (self._read_head(inputs)[:, 0] - REWARD_MIDDLE) / REWARD_WIDTH
        return 100 * rewards_B.sigmoid().to(pixels_BCHW.device)

    @staticmethod
    def standardise(values_B: Tensor) -> Tensor:
        """Return (reward - 5) / 3 for values on the scale of `score`."""
        return torch.logit(values_B / 100, eps=1e-6)

    @torch.inference_mode()
    def rate(self, items: Sequence[Item]) -> list[tuple[float, float]]:
        """Return the head's two numbers for each item: the reward, and the logarithm of its standard deviation."""
        if not items:
            return []
        inputs = self._process([item.image.convert("RGB") for item in items], [item.prompt for item in items])
        return [(mean, log_deviation) for mean, log_deviation in self._read_head(inputs).tolist()]

    def _process(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        """Return the model's inputs for images with their prompts, padded on the right."""
        texts = [RATING_TEXT.replace("{text_prompt}", prompt) for prompt in prompts]
        return self._processor(
            images=[[image] for image in images],
            text=[write_prompt(self._processor, [image, text]) for image, text in zip(images, texts, strict=True)],
            padding=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)

    def _cut_patches(self, pixels_BCHW: Tensor, grid: Tensor) -> Tensor:
        """Return the image processor's output for images of one size, with a gradient; `grid` is time, rows, columns.

        The numbers of a patch are ordered by color, frame (an image counts as two equal frames), row and column. The
        patches are ordered by squares of `merge_size` x `merge_size`, each of which becomes one token.
        """
        images = self._processor.image_processor
        side, merge, frames = images.patch_size, images.merge_size, images.temporal_patch_size
        rows, columns = (int(count) * side for count in grid[1:])
        pixels_BCHW = resize_pixels(pixels_BCHW.float(), (rows, columns), RESAMPLING[int(images.resample)])
        mean, deviation = (
            pixels_BCHW.new_tensor(each)[:, None, None] for each in (images.image_mean, images.image_std)
        )
        split = ((pixels_BCHW - mean) / deviation).unflatten(3, (-1, merge, side)).unflatten(2, (-1, merge, side))
        patches: Tensor = split.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(*[-1] * 6, frames, -1, -1)
        return patches.reshape(-1, patches.shape[5:].numel()).to(self._model.device, self._model.dtype)

    def _read_head(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the head's output at the last reward token of each text, fp32 (B, 2)."""
        ids_BT = inputs["input_ids"]
        rows, length = ids_BT.shape
        places = torch.arange(length, device=ids_BT.device)
        hidden_BTD = self._model(
            input_ids=ids_BT,
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            position_ids=places.expand(3, rows, -1),
            use_cache=False,
        ).last_hidden_state
        found_B = torch.where(ids_BT == self._token, places, -1).amax(1)
        output: Tensor = hidden_BTD[torch.arange(rows), found_B].float()
        for number, (weight, bias) in enumerate(self._head):
            output = F.linear(F.relu(output) if number else output, weight, bias)
        return output

    def _add_token(self) -> int:
        """Set up the processor as the published code does; return the id of the reward token, which may be new."""
        images, tokenizer = self._processor.image_processor, self._processor.tokenizer
        pixels = IMAGE_TOKENS * (images.patch_size * images.merge_size) ** 2
        images.size = {"shortest_edge": pixels, "longest_edge": pixels}
        tokenizer.padding_side = "right"
        tokenizer.add_tokens([AddedToken(REWARD_TOKEN, normalized=False, special=True)], special_tokens=True)
        token: int = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
        return token


def _find_head(tensors: Mapping[str, Tensor], name: str) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of the head's linear layers in fp32, in order; a ReLU is between any two."""
    found = sorted({int(match[1]) for key in tensors if (match := _HEAD.fullmatch(key))})
    try:
        head = [(tensors[f"rm_head.{n}.weight"].float(), tensors[f"rm_head.{n}.bias"].float()) for n in found]
    except KeyError as failure:
        raise ModelError(f"{name} has no {failure.args[0]}: it holds no head of HPSv3, or a part of one") from failure
    if not head or len(head[-1][0]) != 2:
        raise ModelError(f"{name} holds no head of HPSv3: its tensors rm_head.N, of which the last gives two numbers")
    return head


def _rename(key: str) -> str:
    """Return the name in `Qwen2VLModel` for a tensor's name from transformers 4 or 5.

    >>> _rename("model.norm.weight"), _rename("model.visual.merger.ln_q.bias")
    ('language_model.norm.weight', 'visual.merger.ln_q.bias')
    """
    key = key.removeprefix("model.")
    return key if key.startswith(("visual.", "language_model.")) else f"language_model.{key}"
