from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModelWithProjection

from agfsync.models.architecture import TEXT_STATES
from agfsync.models.flow_matching import POOLED_PROJECTIONS
from agfsync.models.stable_diffusion_3 import StableDiffusion3
from agfsync.shapes.training import clip, flow, generator, vae
from agfsync.shapes.training.flow import FlowLesson, assemble_flow, embed_words
from agfsync.shapes.training.generator import NoisyLatents
from agfsync.shapes.training.lessons import Pupil, teach
from agfsync.shapes.training.tokenizers import build_clip_tokenizer
from agfsync.shapes.training.vae import LATENT_CHANNELS, LATENT_SIDE

MakeActor = Callable[[Any], Any]


@pytest.fixture
def pupil(monkeypatch: pytest.MonkeyPatch) -> Pupil:
    monkeypatch.setattr(flow, "LAYERS", 2)
    monkeypatch.setattr(generator, "LATENT_POOL", 100)
    config = clip.build_clip(build_clip_tokenizer()).config.text_config
    return assemble_flow(vae.build_vae().eval(), *(CLIPTextModelWithProjection(config) for _ in range(2)))


def _noisy(lesson: Any, clean_BCHW: torch.Tensor) -> NoisyLatents:
    words_BT = torch.zeros(len(clean_BCHW), 40, dtype=torch.int64)
    return NoisyLatents(*lesson.add_noise(clean_BCHW), words_BT)


def test_noisy_latents_lie_on_the_line_from_the_image_to_the_noise(pupil: Pupil) -> None:
    clean = 0.35 * torch.randn(4096, LATENT_CHANNELS, 2, 2)
    batch = _noisy(pupil.lessons[0], clean)
    sigmas = batch.timesteps_B / 1000
    assert torch.allclose(batch.noisy_BCHW - sigmas[:, None, None, None] * batch.velocity_BCHW, clean, atol=1e-5)
    assert (clean + batch.velocity_BCHW).std().item() == pytest.approx(1, abs=0.02)
    # the median of a logit-normal time is one half, and a standard deviation above it sigmoid(1)
    assert sigmas.quantile(0.5).item() == pytest.approx(0.5, abs=0.03)
    assert sigmas.quantile(0.8413).item() == pytest.approx(0.731, abs=0.02)


def test_a_fresh_transformer_is_as_wrong_as_saying_nothing(pupil: Pupil, actor: MakeActor) -> None:
    batch = _noisy(pupil.lessons[0], 0.35 * torch.randn(8, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE))
    loss, _ = pupil.lessons[0].loss(actor(pupil.network), batch)
    assert loss.item() == pytest.approx(1 + 0.35**2, abs=0.5)
    loss.backward()
    networks: Any = pupil.network
    # the last layer begins with zeros, which let no gradient through to the others
    assert networks["transformer"].proj_out.weight.grad.abs().sum() > 0


def test_the_models_have_the_size_that_the_weights_may_have() -> None:
    assert sum(p.numel() for p in flow.build_flow_transformer().parameters()) == 4_705_040


@pytest.mark.long
def test_the_lessons_end_in_a_stable_diffusion_3(pupil: Pupil, tmp_path: Path) -> None:
    hasty = [replace(each, plan=replace(each.plan, steps=2, batch=2, learning_rate=1e-4)) for each in pupil.lessons]
    assert all(isinstance(each, FlowLesson) for each in hasty)
    reported: list[Any] = []
    teach(replace(pupil, lessons=hasty), tmp_path / "checkpoints", reported.append)
    assert len(reported) == 6
    captions = ["a red star", "two blue hearts"]
    words = build_clip_tokenizer()(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        text, pooled = embed_words(pupil.network, words)
    pupil.save(tmp_path / "flow")
    loaded = StableDiffusion3(str(tmp_path / "flow"), steps=2, guidance=3.0, max_sequence_length=1)
    assert [image.size for image in loaded.draw(captions, [1, 2], embedding_noise=0.1)] == [(64, 64)] * 2
    embedded = loaded.encode_prompts(captions)
    assert torch.allclose(embedded[TEXT_STATES], text, atol=1e-2)  # saved in float16
    assert torch.allclose(embedded[POOLED_PROJECTIONS], pooled, atol=1e-2)
