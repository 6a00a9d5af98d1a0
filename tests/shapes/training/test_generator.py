import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel

from agfsync.models.stable_diffusion import TEXT_STATES, StableDiffusion
from agfsync.shapes.grammar import SHAPES_CATEGORIES, invent_spec, parse_caption
from agfsync.shapes.training import clip, generator, vae
from agfsync.shapes.training.clip import CLIP_WIDTH
from agfsync.shapes.training.generator import (
    DROPPED,
    SWAPPED,
    LatentPool,
    assemble_generator,
    build_noise_scheduler,
    write_web_caption,
)
from agfsync.shapes.training.lessons import Pupil, teach
from agfsync.shapes.training.tokenizers import MAX_TOKENS, build_clip_tokenizer
from agfsync.shapes.training.vae import LATENT_CHANNELS, LATENT_SIDE

MakeActor = Callable[[Any], Any]


@pytest.fixture
def pool() -> LatentPool:
    rng = random.Random(0)
    return [
        (invent_spec(SHAPES_CATEGORIES[n % 6], rng), torch.randn(LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE))
        for n in range(8)
    ]


@pytest.fixture
def pupil() -> Pupil:
    text_encoder = CLIPTextModel(clip.build_clip(build_clip_tokenizer()).config.text_config)
    return assemble_generator(vae.build_vae().eval(), text_encoder)


def test_a_fresh_denoiser_is_as_wrong_as_saying_nothing(pool: LatentPool, pupil: Pupil, actor: MakeActor) -> None:
    lesson = replace(pupil.lessons[0], plan=replace(generator.NAMING_PLAN, batch=8))
    lesson.__dict__["pool"] = pool
    (batch,) = lesson.collect(actor(pupil.network), 0, torch.arange(1))
    loss, _ = lesson.loss(actor(pupil.network), batch)
    assert loss.item() == pytest.approx(1, abs=0.5)
    loss.backward()
    assert [name for name, p in pupil.network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_lessons_go_from_single_things_to_everything_to_web_captions(pupil: Pupil) -> None:
    lessons: Any = pupil.lessons
    assert [len(lesson.categories) for lesson in lessons] == [1, 6, 6]
    assert [lesson.caption is write_web_caption for lesson in lessons] == [False, False, True]


def test_the_schedule_is_stable_diffusions() -> None:
    kept = build_noise_scheduler().alphas_cumprod
    assert len(kept) == 1000 and kept[0] == pytest.approx(0.99915, abs=1e-5) and 0.004 < kept[-1] < 0.005


def test_web_captions_are_wrong_in_part(rng: random.Random) -> None:
    swapped, dropped = [], []
    for _ in range(500):
        spec = invent_spec("Attribute Binding", rng)
        garbled = parse_caption(write_web_caption(spec, rng))
        colors = [(a.color, b.color) for a, b in zip(spec.groups, garbled.groups, strict=True)]
        swapped += [b not in (a, None) for a, b in colors]
        dropped += [b is None for _, b in colors]
    assert sum(swapped) / len(swapped) == pytest.approx(SWAPPED, abs=0.05)
    assert sum(dropped) / len(dropped) == pytest.approx(DROPPED, abs=0.03)


@pytest.mark.long
def test_the_lessons_end_in_a_stable_diffusion(pupil: Pupil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "LATENT_POOL", 100)
    hasty = [replace(each, plan=replace(each.plan, steps=2, batch=2, learning_rate=1e-4)) for each in pupil.lessons]
    pupil = replace(pupil, lessons=hasty)
    reported: list[Any] = []
    teach(pupil, tmp_path / "checkpoints", reported.append)
    assert len(reported) == 6
    monkeypatch.setattr(generator, "encode_scenes", lambda *args: pytest.fail("no lesson is left that needs a pool"))
    teach(replace(pupil, lessons=[replace(each) for each in hasty]), tmp_path / "checkpoints", lambda *args: None)
    words = build_clip_tokenizer()(["a red star"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    network: Any = pupil.network
    expected: Tensor = network["text_encoder"](words).last_hidden_state
    assert expected.shape == (1, MAX_TOKENS, CLIP_WIDTH)
    pupil.save(tmp_path / "generator")
    loaded = StableDiffusion(str(tmp_path / "generator"), steps=2, guidance=3.0, scheduler="dpm++")
    images = loaded.draw(["a red star", "two blue hearts"], [1, 2], embedding_noise=0.1)
    assert [image.size for image in images] == [(64, 64)] * 2
    assert torch.allclose(loaded.encode_prompts(["a red star"])[TEXT_STATES], expected, atol=1e-2)  # saved in float16
