"""ImageReward against BLIP's own matching model with the head on top, and its scale."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BlipForImageTextRetrieval
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.heads import Head
from agfsync.scorers.imagereward import MEAN, STD, ImageReward

SIDE = 32


@pytest.fixture
def scorer(folders: Path) -> ImageReward:
    return ImageReward(path=str(folders / "matcher"), weights=str(folders / "reward.safetensors"), device="cpu")


def _matcher(folders: Path) -> BlipForImageTextRetrieval:
    """The model as transformers has it: its weights are the seed's, which those in `folders` are made of too."""
    config = AutoConfig.from_pretrained(folders / "matcher")
    config.vision_config.image_size, config.vision_config.layer_norm_eps = SIDE, 1e-6
    model = BlipForImageTextRetrieval(config)
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return model.eval()


def test_it_is_the_standardised_reward_through_a_sigmoid(scorer: ImageReward, folders: Path, items: list[Item]) -> None:
    model, head = _matcher(folders), Head.load(folders / "reward.safetensors")
    tokenizer = pretrained.load_tokenizer(str(folders / "matcher"), None)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    for item, result in zip(items, scorer.score(items), strict=True):
        with torch.no_grad():
            states = model(
                **tokenizer([item.prompt], padding="max_length", max_length=35, return_tensors="pt"),
                pixel_values=processor(item.image, return_tensors="pt")["pixel_values"],
            ).question_embeds
            reward = (float(head(states[:, 0])) - MEAN) / STD
        assert isinstance(result, Measurement)
        assert math.log(result.value / (100 - result.value)) == pytest.approx(reward, abs=1e-3)


def test_the_reward_depends_on_image_and_prompt(scorer: ImageReward, items: list[Item]) -> None:
    pairs = [Item(words.prompt, (), seen.image) for words in items[:2] for seen in items[:2]]
    assert len({result.value for result in scorer.score(pairs) if isinstance(result, Measurement)}) == 4


def test_a_long_prompt_is_cut_and_told(scorer: ImageReward, items: list[Item]) -> None:
    exact, long = " ".join(["star"] * 33), " ".join(["star"] * 34)
    results = scorer.score([Item(prompt, (), items[0].image) for prompt in (exact, long, f"{long} red")])
    values = [result for result in results if isinstance(result, Measurement)]
    assert [result.truncated for result in values] == [False, True, True]
    assert values[0].value == pytest.approx(values[2].value, abs=1e-4)


@pytest.mark.parametrize(
    ("output", "value"), [(MEAN, 50.0), (MEAN + STD, 73.1059), (MEAN - STD, 26.8941), (1e9, 100.0), (-1e9, 0.0)]
)
def test_the_scale(output: float, value: float, scorer: ImageReward, items: list[Item]) -> None:
    scorer._model.network.mlp.forward = lambda readings, kept: torch.full((len(readings),), output)
    (only,) = scorer.score(items[:1])
    assert isinstance(only, Measurement)
    assert only.value == pytest.approx(value, abs=1e-3)


def test_what_is_no_number_is_unscored(scorer: ImageReward, items: list[Item]) -> None:
    scorer._model.network.mlp.forward = lambda readings, kept: torch.full((len(readings),), math.nan)
    assert scorer.score(items[:1]) == [Unscored("the model's reward is not a number")]


def test_a_folder_of_its_own_may_hold_it_all(
    scorer: ImageReward, folders: Path, items: list[Item], tmp_path: Path
) -> None:
    for file in (folders / "matcher").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(load_file(folders / "reward.safetensors"), tmp_path / "model.safetensors")
    assert ImageReward(path=str(tmp_path), device="cpu").score(items) == scorer.score(items)


def test_a_blip_without_the_reward_is_an_error(folders: Path) -> None:
    with pytest.raises(ModelError, match="it holds no head"):
        ImageReward(path=str(folders / "matcher"), device="cpu")
    with pytest.raises(ModelError, match="no BLIP with a vision tower"):
        ImageReward(path=str(folders / "matcher"), weights=str(folders / "aesthetic"), device="cpu")
