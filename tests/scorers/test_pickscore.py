from pathlib import Path

import pytest

from agfsync.scorers import Item, Measurement
from agfsync.scorers.clip import Clip
from agfsync.scorers.pickscore import PickScore


def test_weights_apart_from_their_processor_are_the_same_scorer(folders: Path, items: list[Item]) -> None:
    model = str(folders / "clip")
    whole = PickScore(path=model, device="cpu").score(items)
    apart = PickScore(path=model, weights=f"{model}/model.safetensors", device="cpu").score(items)
    assert whole == apart == Clip(path=model, device="cpu").score(items)


def test_it_is_the_logit_where_the_scale_is_100(folders: Path, items: list[Item]) -> None:
    import math

    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(folders / "clip").eval()
    model.logit_scale.data.fill_(math.log(100))
    processor = CLIPProcessor.from_pretrained(folders / "clip", backend="pil")
    for item, result in zip(items, PickScore(path=str(folders / "clip"), device="cpu").score(items), strict=True):
        inputs = processor(text=[item.prompt], images=item.image, return_tensors="pt")
        assert isinstance(result, Measurement)
        assert result.value == pytest.approx(max(float(model(**inputs).logits_per_image.detach()), 0), abs=1e-3)
