"""HPSv3 against the published formula by hand, and what it refuses.

Once, outside of the suite, it was run beside the package hpsv3 1.0.0 on transformers 4.45.2: the same tiny weights, of
patches of 14 pixels, three images of other shapes, in one batch there: equal to 1e-6.
"""

import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement
from agfsync.scorers.hpsv3 import RATING_TEXT, Hpsv3

SIDE, MERGE = 4, 2


def resize(image: Image.Image) -> Image.Image:
    """The published size, with rows and columns of whole tokens and at most 256 of these if it is too large."""
    factor, pixels = SIDE * MERGE, 256 * (SIDE * MERGE) ** 2
    height, width = (max(factor, round(side / factor) * factor) for side in (image.height, image.width))
    scale = math.sqrt(image.height * image.width / pixels)
    if height * width > pixels:
        height, width = (math.floor(side / scale / factor) * factor for side in (image.height, image.width))
    elif height * width < pixels:
        height, width = (math.ceil(side / scale / factor) * factor for side in (image.height, image.width))
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def cut_patches(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches in the order of the squares that become tokens, by loops."""
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = ((np.asarray(image) / 255 - mean) / deviation).transpose(2, 0, 1)
    rows, columns = pixels.shape[1] // SIDE, pixels.shape[2] // SIDE
    patches = []
    for top in range(0, rows, MERGE):
        for left in range(0, columns, MERGE):
            for row in range(top, top + MERGE):
                for column in range(left, left + MERGE):
                    patch = pixels[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
                    patches.append(np.stack([patch, patch], axis=1).ravel())
    return torch.tensor(np.stack(patches), dtype=torch.float32), torch.tensor([[1, rows, columns]])


@torch.inference_mode()
def rate_plainly(folder: Path, weights: Path, item: Item) -> list[float]:
    """The published forward: words and image features in one row, positions 0, 1, 2 ..., the head at its token."""
    tensors = load_file(weights)
    config = Qwen2VLConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(tensors["model.embed_tokens.weight"])
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("rm_head")}
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(None, config=config, state_dict=state).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    patches, grid = cut_patches(resize(item.image))
    shown = "<|image_pad|>" * int(grid.prod() // MERGE**2)
    text = RATING_TEXT.replace("{text_prompt}", item.prompt)
    parts = [f"<start> user :  <|vision_start|>{shown}<|vision_end|> ", *text.split("<|Reward|>")]
    ids = [tokenizer.encode(part) for part in (parts[0] + parts[1], f"{parts[2]} <end> <start> assistant :")]
    row = torch.tensor([[*ids[0], len(tokenizer), *ids[1]]])
    embedded = model.model.language_model.embed_tokens(row)
    embedded[row == config.image_token_id] = model.model.visual(patches, grid_thw=grid).pooler_output
    hidden = model.model.language_model(inputs_embeds=embedded).last_hidden_state[0, len(ids[0])]
    for name in ("0", "3", "5"):
        hidden = tensors[f"rm_head.{name}.weight"] @ hidden + tensors[f"rm_head.{name}.bias"]
        hidden = hidden if name == "5" else hidden.clamp(min=0)
    rated: list[float] = hidden.tolist()
    return rated


@pytest.fixture
def scorer(folders: Path) -> Hpsv3:
    return Hpsv3(path=str(folders / "qwen2"), weights=str(folders / "HPSv3.safetensors"), device="cpu")


@pytest.mark.parametrize("size", [(40, 30), (300, 170)])
def test_the_rating_is_the_published_formula(size: tuple[int, int], scorer: Hpsv3, folders: Path) -> None:
    noise = torch.randint(0, 255, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    item = Item("a red star left of {two} circle", (), Image.fromarray(noise.numpy()))
    (rated,) = scorer.rate([item])
    expected = rate_plainly(folders / "qwen2", folders / "HPSv3.safetensors", item)
    assert rated == pytest.approx(expected, abs=2e-5)
    (result,) = scorer.score([item])
    assert isinstance(result, Measurement)
    assert result.value == pytest.approx(100 / (1 + math.exp(-(expected[0] - 5) / 3)), abs=1e-3)


def test_the_text_is_the_published_one() -> None:
    digest = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
    assert sha256(RATING_TEXT.encode()).hexdigest() == digest, "of INSTRUCTION and what follows it in hpsv3 1.0.0"


def test_a_prompt_that_holds_the_token_leaves_the_others_alone(scorer: Hpsv3, items: list[Item]) -> None:
    item = Item("a <|Reward|> star", (), items[0].image)
    assert scorer.score([item, items[1]])[1].value == pytest.approx(scorer.score([items[1]])[0].value, abs=1e-3)


def test_weights_may_have_the_names_of_today(folders: Path, tmp_path: Path, scorer: Hpsv3, items: list[Item]) -> None:
    tensors = {}
    for name, tensor in load_file(folders / "HPSv3.safetensors").items():
        today = name.replace("visual.", "model.visual.", 1).replace("model.", "model.language_model.", 1)
        tensors[name if name.startswith(("lm", "rm")) else today.replace("language_model.visual", "visual")] = tensor
    assert "model.visual.merger.ln_q.bias" in tensors and "model.language_model.norm.weight" in tensors
    save_file(tensors, tmp_path / "any name.safetensors")
    again = Hpsv3(path=str(folders / "qwen2"), weights=str(tmp_path), device="cpu")
    assert again.rate(items[:1])[0] == pytest.approx(scorer.rate(items[:1])[0])


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("rm_head", "holds no head of HPSv3"),
        ("rm_head.3.bias", "has no rm_head.3.bias"),
        ("model.norm", "1 of its weights are missing"),
        ("model.embed_tokens", "has no row for the token"),
    ],
)
def test_weights_that_are_not_hpsv3s_are_refused(left_out: str, says: str, folders: Path, tmp_path: Path) -> None:
    tensors = load_file(folders / "HPSv3.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith(left_out)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=says) as raised:
        Hpsv3(path=str(folders / "qwen2"), weights=str(tmp_path), device="cpu")
    assert "\n" not in str(raised.value)
