"""The CLIP score against the model's own arithmetic."""

import math
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.clip import Clip


@pytest.fixture
def clip(folders: Path) -> Clip:
    return Clip(model=str(folders / "clip"), device="cpu")


def test_it_is_the_cosine_times_100(clip: Clip, folders: Path, items: list[Item]) -> None:
    model = CLIPModel.from_pretrained(folders / "clip").eval()
    processor = CLIPProcessor.from_pretrained(folders / "clip", backend="pil")
    for item, result in zip(items, clip.score(items), strict=True):
        inputs = processor(text=[item.prompt], images=item.image, return_tensors="pt")
        with torch.no_grad():
            cosine = float(model(**inputs).logits_per_image) / math.exp(model.logit_scale)
        assert isinstance(result, Measurement)
        assert result.value == pytest.approx(max(100 * cosine, 0), abs=1e-3)


def test_a_long_prompt_is_cut_at_the_models_tokens_and_told(clip: Clip, items: list[Item]) -> None:
    start = "a red star of the blue circle of two"  # nine words more would not fit beside start and end
    long = [Item(f"{start} green {end}", (), item.image) for item in items[:2] for end in ("square left", "circle")]
    exact = Item(f"{start} green", (), items[0].image)
    results = [result for result in clip.score([*long, exact, *long]) if isinstance(result, Measurement)]
    assert results[0].value == results[1].value == results[4].value
    assert [result.truncated for result in results] == [True] * 4 + [False] + [True] * 4


def test_a_prompt_is_embedded_once(clip: Clip, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    texts = clip._clip.texts
    monkeypatch.setattr(clip._clip, "texts", lambda prompts: embedded.extend(prompts) or texts(prompts))
    clip.score([items[0], items[0], items[1]])
    clip.score([items[1], items[2]])
    assert embedded == [items[0].prompt, items[1].prompt, items[2].prompt]


def test_what_is_no_number_is_unscored(clip: Clip, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip._clip, "images", lambda images: torch.full((len(images), 8), math.nan))
    assert clip.score(items[:1]) == [Unscored("the model's embedding is not a number")]
