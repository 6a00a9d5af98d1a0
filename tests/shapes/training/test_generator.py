import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel

from agfsync.models.stable_diffusion import TEXT, StableDiffusion
from agfsync.shapes.grammar import CATEGORIES, invent, read
from agfsync.shapes.training import clip, generator, vae
from agfsync.shapes.training.generator import (
    DROPPED,
    LESSONS,
    SWAPPED,
    Lesson,
    Pool,
    _Pupil,
    build_scheduler,
    build_unet,
    web_caption,
)
from agfsync.shapes.training.loop import Plan
from agfsync.shapes.training.tokenizers import MAX_TOKENS, clip_tokenizer


@pytest.fixture
def pool() -> Pool:
    rng = random.Random(0)
    return [(invent(CATEGORIES[n % 6], rng), torch.randn(vae.CHANNELS, vae.SIDE, vae.SIDE)) for n in range(8)]


def hasty(lesson: Lesson, batch: int) -> Lesson:
    """`lesson` for two steps."""
    return replace(lesson, plan=Plan(lesson.plan.name, steps=2, batch=batch, learning_rate=1e-4))


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(clip.build(clip_tokenizer()).config.text_config)


def test_a_fresh_denoiser_is_as_wrong_as_saying_nothing(pool: Pool) -> None:
    torch.manual_seed(0)
    pupil = _Pupil(build_unet(), text_encoder(), clip_tokenizer(), build_scheduler())
    loss, _ = pupil.loss(lambda: pool, hasty(LESSONS[0], batch=8), random.Random(0))
    assert loss.item() == pytest.approx(1, abs=0.5)
    loss.backward()
    trained = [*pupil.unet.named_parameters(), *pupil.text_encoder.named_parameters()]
    assert [name for name, p in trained if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_lessons_go_from_single_things_to_everything_to_web_captions() -> None:
    assert [len(lesson.categories) for lesson in LESSONS] == [1, 6, 6]
    assert [lesson.word is web_caption for lesson in LESSONS] == [False, False, True]


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
    lessons = [hasty(lesson, batch=2) for lesson in LESSONS]
    tell = lambda step, figures: told.append(step)  # noqa: E731
    pipeline = generator.teach(vae.build().eval(), text_encoder(), tmp_path, tell, lessons)
    assert told == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(generator, "_pool", lambda *args: pytest.fail("the lessons are over: nothing needs a pool"))
    generator.teach(vae.build().eval(), text_encoder(), tmp_path, tell, lessons)
    pipeline.save_pretrained(tmp_path / "generator")
    loaded = StableDiffusion(str(tmp_path / "generator"), steps=2, guidance=3.0, scheduler="dpm++")
    images = loaded.draw(["a red star", "two blue hearts"], [1, 2], embedding_noise=0.1)
    assert [image.size for image in images] == [(64, 64)] * 2
    words = pipeline.tokenizer(["a red star"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    taught: Tensor = pipeline.text_encoder(words).last_hidden_state
    assert taught.shape == (1, MAX_TOKENS, generator.WIDTH)
    assert torch.allclose(loaded.encode_prompts(["a red star"])[TEXT], taught, atol=1e-5)
