import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from agfsync.scorers.backbone import Backbone
from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import CATEGORIES, invent
from agfsync.shapes.training import clip
from agfsync.shapes.training.pictures import any_captioned_scene
from agfsync.shapes.training.tokenizers import clip_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    return clip.build(tokenizer).eval()


def test_a_wrong_caption_is_never_the_right_one(rng: random.Random) -> None:
    for category in CATEGORIES:
        for _ in range(30):
            spec = invent(category, rng)
            assert clip._slightly_wrong(spec, rng) != spec


def test_a_batch_holds_pictures_and_right_captions_before_wrong_ones(
    tokenizer: CLIPTokenizer, rng: random.Random
) -> None:
    images, words = clip._batch(rng, 5, tokenizer)
    assert images.shape == (5, 3, 64, 64) and images.min() >= -1 and images.max() <= 1
    assert len(words) == 10
    right, wrong = words[:5], words[5:]
    assert all(not torch.equal(a, b) for a, b in zip(right, wrong, strict=True))


def test_an_untrained_model_guesses(model: CLIPModel, tokenizer: CLIPTokenizer, rng: random.Random) -> None:
    loss, figures = clip._loss(model, *clip._batch(rng, 8, tokenizer))
    assert loss.item() == pytest.approx((np.log(16) + np.log(8)) / 2, abs=1.0)
    assert 0 <= figures["retrieval"] <= 1


def test_the_scorer_embeds_as_it_was_taught(
    model: CLIPModel, tokenizer: CLIPTokenizer, tmp_path: Path, rng: random.Random
) -> None:
    model.save_pretrained(tmp_path)
    clip.processor(tokenizer).save_pretrained(tmp_path)
    scorer = Backbone(str(tmp_path), None, "fp32", "cpu")
    texts = ["a red star", "two small blue hearts above a striped green circle on a grey background"]
    scenes = [any_captioned_scene(rng)[1] for _ in range(3)]
    images: list[Image.Image] = [draw(scene) for scene in scenes]
    words = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=clip.to_tensor(images)).pooler_output
        told = model.get_text_features(input_ids=words).pooler_output
    assert torch.allclose(scorer.images(images), normalize(seen, dim=-1), atol=1e-5)
    assert torch.allclose(scorer.texts(texts)[0], normalize(told, dim=-1), atol=1e-5)
