"""The CLIP and SigLIP scores against the models' own arithmetic."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from agfsync.scorers import Item, Measurement
from agfsync.scorers.clip import Clip

PADDING = {"clip": True, "siglip": "max_length", "siglip2": "max_length"}


@pytest.mark.parametrize("kind", PADDING)
def test_it_is_the_cosine_times_100(kind: str, folders: Path, items: list[Item]) -> None:
    model = AutoModel.from_pretrained(folders / kind).eval()
    processor = AutoProcessor.from_pretrained(folders / kind, backend="pil")
    values = []
    for item, result in zip(items, Clip(path=str(folders / kind), device="cpu").score(items), strict=True):
        words = processor.tokenizer(
            [item.prompt], padding=PADDING[kind], truncation=True, max_length=12, return_tensors="pt"
        )
        seen = processor.image_processor(item.image, return_tensors="pt")
        with torch.no_grad():
            logit = model(input_ids=words["input_ids"], **seen).logits_per_image - getattr(model, "logit_bias", 0)
        assert isinstance(result, Measurement)
        assert result.value == pytest.approx(
            max(100 * float(logit) / math.exp(float(model.logit_scale.detach())), 0), abs=1e-3
        )
        values.append(result.value)
    assert max(values) > 0


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("clip", "a red star of the blue circle of two green"),  # ten words, beside a start and an end
        ("siglip", "a red star of the blue circle of two green square"),  # eleven, and an end
        ("siglip2", "red star of"),  # as many letters and spaces
    ],
)
def test_a_long_prompt_is_cut_at_the_models_tokens_and_told(
    kind: str, start: str, folders: Path, items: list[Item]
) -> None:
    long = [Item(f"{start} {end}", (), item.image) for item in items[:2] for end in ("two left", "circle")]
    exact = Item(start, (), items[0].image)
    results = Clip(path=str(folders / kind), device="cpu").score([*long, exact, *long])
    values = [result for result in results if isinstance(result, Measurement)]
    assert values[0].value == values[1].value == pytest.approx(values[4].value, abs=1e-3)
    assert [result.truncated for result in values] == [True] * 4 + [False] + [True] * 4
