"""Text encoders and VAE of every architecture: dropped, read again, and the same to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_diffusion
import tiny_flows
import torch
from PIL import Image
from torch import nn

from agfsync import catalog

MAKERS = {
    "stable-diffusion": tiny_diffusion.pipeline,
    "stable-diffusion-xl": tiny_diffusion.xl_pipeline,
    "stable-diffusion-3": tiny_diffusion.sd3_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
    "flux2-klein": tiny_flows.flux2_klein_pipeline,
    "qwen-image": tiny_flows.qwen_image_pipeline,
    "z-image": tiny_flows.z_image_pipeline,
    "sana": tiny_flows.sana_pipeline,
}
SMALL = {"steps": 2, "height": 16, "width": 16}
PROMPTS = ["a red circle", "two stars"]
DRAWING: Any = (PROMPTS, [1, 2], 0.0)


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    MAKERS[kind]().save_pretrained(tmp_path / kind)
    return tmp_path / kind


def load(kind: str, folder: Path, **settings: Any) -> Any:
    return catalog.build("models", {"type": kind, "path": str(folder), "device": "cpu"} | SMALL | settings)


def count_loaded(model: Any) -> dict[str, int]:
    """Count the weights in memory by the part of the pipeline; parts that have none aren't in it."""
    parts = {**model._encoders._networks, "network": model.network}
    counts = {n: sum(p.numel() for p in part.parameters() if not p.is_meta) for n, part in parts.items()}
    return {name: count for name, count in counts.items() if count}


def same(some: Any, others: Any) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(some, others, strict=True))


def test_encoders_come_when_they_are_needed_and_go(kind: str, folder: Path, tmp_path: Path) -> None:
    model = load(kind, folder, lazy=True)
    assert set(count_loaded(model)) == {"network", "vae"}
    noise = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))]
    encoded, told = model.encode_images(noise), model.encode_prompts(PROMPTS)
    whole, expected = count_loaded(model), model.draw(PROMPTS, [1, 2], 0.0)

    model.release_encoders()
    assert set(count_loaded(model)) == {"network"}
    assert same(model.draw(PROMPTS, [1, 2], 0.0), expected) and count_loaded(model) == whole
    latents = torch.zeros(1, *model.latent_shape, requires_grad=True)
    model.decode_pixels(latents).sum().backward()  # what was read while an image was drawn passes a gradient
    model.release_encoders()
    model.release_encoders()
    model.save(tmp_path / "saved")
    eager = load(kind, tmp_path / "saved")
    assert same(eager.draw(PROMPTS, [1, 2], 0.0), expected) and eager.encode_images(noise).equal(encoded)
    again = eager.encode_prompts(PROMPTS)
    assert all(again[name].equal(told[name]) for name in told) and count_loaded(eager) == whole


def test_encoders_with_a_fused_lora_are_kept(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = tiny_diffusion.pipeline()
    pipeline.save_pretrained(tmp_path / "base")
    pipeline.text_encoder.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    weights = get_peft_model_state_dict(pipeline.text_encoder)
    pipeline.save_lora_weights(tmp_path / "lora", text_encoder_lora_layers=weights)
    lora = {"path": str(tmp_path / "lora"), "strength": 1.0}
    model = load("stable-diffusion", tmp_path / "base", loras=[lora], lazy=True)
    expected = model.draw(*DRAWING)
    model.release_encoders()
    assert same(model.draw(*DRAWING), expected)
    assert not same(load("stable-diffusion", tmp_path / "base").draw(*DRAWING), expected)


def test_networks_that_take_turns_draw_the_same(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing moves, so that what is asked for is looked at: who leaves first, then who comes."""
    plain, offloaded = load(kind, folder), load(kind, folder, offload=True)
    names = {id(part): name for name, part in offloaded._pipeline.components.items() if isinstance(part, nn.Module)}
    moved: list[tuple[str, str]] = []
    offloaded._encoders._device = "cpu:0"  # the accelerator

    def record(self: nn.Module, device: Any, *rest: Any) -> nn.Module:
        if id(self) in names and isinstance(device, str):
            moved.append((names[id(self)], device))
        return self

    monkeypatch.setattr(nn.Module, "to", record)
    assert same(offloaded.draw(*DRAWING), plain.draw(*DRAWING)) and offloaded.identity == plain.identity
    texts = {name for name in names.values() if name.startswith("text_encoder")}
    turns = [moved[place : place + len(names)] for place in range(0, len(moved), len(names))]
    assert all([device for _, device in turn] == sorted(device for _, device in turn) for turn in turns)
    on = [{name for name, device in turn if device == "cpu:0"} for turn in turns]
    assert on[0] == texts and on[-2:] == [{offloaded._denoiser}, {"vae"}]
    assert all(each == texts for each in on[:-2])
