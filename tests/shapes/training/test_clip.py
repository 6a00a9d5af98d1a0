import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from agfsync.scorers.backbone import Backbone
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.grammar import SHAPES_CATEGORIES, invent_spec
from agfsync.shapes.training import clip
from agfsync.shapes.training.clip import ClipLesson
from agfsync.shapes.training.images import sample_captioned_scene
from agfsync.shapes.training.tokenizers import build_clip_tokenizer

MakeActor = Callable[[Any], Any]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    return clip.build_clip(tokenizer).eval()


def test_a_wrong_caption_is_never_the_right_one(rng: random.Random) -> None:
    for category in SHAPES_CATEGORIES:
        for _ in range(30):
            spec = invent_spec(category, rng)
            assert clip.make_wrong(spec, rng) != spec


def test_a_batch_holds_images_and_right_captions_before_wrong_ones(tokenizer: CLIPTokenizer, actor: MakeActor) -> None:
    plan = replace(clip.CLIP_PLAN, batch=5)
    (batch,) = ClipLesson("clip", plan, tokenizer).collect(actor(None), 0, torch.arange(1))
    images, words = batch.images_BCHW, batch.words_NT
    assert images.shape == (5, 3, 64, 64) and images.min() >= -1 and images.max() <= 1
    assert len(words) == 10
    right, wrong = words[:5], words[5:]
    assert all(not torch.equal(a, b) for a, b in zip(right, wrong, strict=True))


def test_an_untrained_model_guesses(model: CLIPModel, tokenizer: CLIPTokenizer, actor: MakeActor) -> None:
    lesson = ClipLesson("clip", replace(clip.CLIP_PLAN, batch=8), tokenizer)
    (batch,) = lesson.collect(actor(model), 0, torch.arange(1))
    loss, figures = lesson.loss(actor(model), batch)
    assert loss.item() == pytest.approx((np.log(16) + np.log(8)) / 2, abs=1.0)
    assert 0 <= figures["retrieval"] <= 1


def test_the_scorer_embeds_as_in_training(
    model: CLIPModel, tokenizer: CLIPTokenizer, tmp_path: Path, rng: random.Random
) -> None:
    model.save_pretrained(tmp_path)
    clip.build_clip_processor(tokenizer).save_pretrained(tmp_path)
    scorer = Backbone(str(tmp_path), None, "fp32", "cpu")
    texts = ["a red star", "two small blue hearts above a striped green circle on a grey background"]
    scenes = [sample_captioned_scene(rng)[1] for _ in range(3)]
    images: list[Image.Image] = [draw_scene(scene) for scene in scenes]
    words = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        images_BD = model.get_image_features(pixel_values=clip.to_tensor(images)).pooler_output
        texts_BD = model.get_text_features(input_ids=words).pooler_output
    assert torch.allclose(scorer.embed_images(images), normalize(images_BD, dim=-1), atol=1e-5)
    assert torch.allclose(scorer.embed_texts(texts)[0], normalize(texts_BD, dim=-1), atol=1e-5)
