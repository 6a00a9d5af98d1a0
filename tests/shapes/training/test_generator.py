import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel

from agfsync.generators.stable_diffusion import TEXT, StableDiffusion
from agfsync.shapes.grammar import CATEGORIES, invent, read, write
from agfsync.shapes.training import clip, generator, vae
from agfsync.shapes.training.generator import DROPPED, SWAPPED, _Lesson, build_scheduler, build_unet, web_caption
from agfsync.shapes.training.loop import Plan
from agfsync.shapes.training.tokenizers import MAX_TOKENS, clip_tokenizer


@pytest.fixture(scope="module")
def lesson() -> _Lesson:
    torch.manual_seed(0)
    tokenizer, rng = clip_tokenizer(), random.Random(0)
    pool = [(invent(CATEGORIES[n % 6], rng), torch.randn(4, 16, 16)) for n in range(8)]
    return _Lesson(build_unet(), text_encoder(), tokenizer, build_scheduler(), pool)


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(clip.build(clip_tokenizer()).config.text_config)


def test_a_fresh_denoiser_is_as_wrong_as_saying_nothing(lesson: _Lesson) -> None:
    torch.manual_seed(0)
    loss, _ = lesson.loss(random.Random(0), 8, write)
    assert loss.item() == pytest.approx(1, abs=0.5)
    loss.backward()
    trained = [*lesson.unet.named_parameters(), *lesson.text_encoder.named_parameters()]
    assert [name for name, p in trained if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_schedule_is_stable_diffusions() -> None:
    kept = build_scheduler().alphas_cumprod
    assert len(kept) == 1000 and kept[0] == pytest.approx(0.99915, abs=1e-5) and 0.004 < kept[-1] < 0.005


def test_web_captions_are_wrong_in_part(rng: random.Random) -> None:
    swapped, dropped = [], []
    for _ in range(500):
        spec = invent("Attribute Binding", rng)
        told = read(web_caption(spec, rng))
        colors = [(a.color, b.color) for a, b in zip(spec.groups, told.groups, strict=True)]
        swapped += [b not in (a, None) for a, b in colors]
        dropped += [b is None for _, b in colors]
    assert sum(swapped) / len(swapped) == pytest.approx(SWAPPED, abs=0.05)
    assert sum(dropped) / len(dropped) == pytest.approx(DROPPED, abs=0.03)


@pytest.mark.slow
def test_what_is_taught_is_a_stable_diffusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "POOL", 100)
    told: list[int] = []
    drawing = Plan("generator-drawing", steps=2, batch=2, learning_rate=1e-4)
    plan = Plan("generator", steps=1, batch=2, learning_rate=1e-4)
    tell = lambda step, figures: told.append(step)  # noqa: E731
    pipeline = generator.teach(vae.build().eval(), text_encoder(), tmp_path, tell, plan, drawing)
    assert told == [1, 2, 3]
    pipeline.save_pretrained(tmp_path / "generator")
    loaded = StableDiffusion(str(tmp_path / "generator"), steps=2, guidance=3.0, scheduler="dpm++")
    images = loaded.draw(["a red star", "two blue hearts"], [1, 2], embedding_noise=0.1)
    assert [image.size for image in images] == [(64, 64)] * 2
    words = pipeline.tokenizer(["a red star"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    taught: Tensor = pipeline.text_encoder(words).last_hidden_state
    assert taught.shape == (1, MAX_TOKENS, generator.WIDTH)
    assert torch.allclose(loaded.encode_prompts(["a red star"])[TEXT], taught, atol=1e-5)
