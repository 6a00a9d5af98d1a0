"""Flow models as the doctor builds them: what tiny ones keep is exact, and published ones have their counts."""

from pathlib import Path
from typing import Any

import pytest
import tiny_diffusion
import tiny_flows
import torch

from agfsync import catalog
from agfsync.commands.doctor.loads import estimate_drawing, estimate_training
from agfsync.commands.doctor.networks import Pipeline
from agfsync.models.architecture import TEXT_STATES
from agfsync.models.counting import count_bytes
from agfsync.models.quantization import count_saved_bytes
from agfsync.recipe import resolve_recipe

TINY = {
    "stable-diffusion-3": tiny_diffusion.sd3_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
    "flux2-klein": tiny_flows.flux2_klein_pipeline,
    "qwen-image": tiny_flows.qwen_image_pipeline,
    "z-image": tiny_flows.z_image_pipeline,
    "sana": tiny_flows.sana_pipeline,
}


@pytest.mark.long
@pytest.mark.parametrize("kind", TINY)
def test_what_a_flow_keeps_is_what_it_encodes(kind: str, tmp_path: Path, make_recipe: Any) -> None:
    TINY[kind]().save_pretrained(tmp_path / kind)
    sampling = {"height": 16, "width": 32, "steps": 2}
    model = {"type": kind, "path": str(tmp_path / kind), "device": "cpu", "sampling": sampling}
    recipe = make_recipe(model=model, training={"batch": 2, "precision": "bf16", "lora": {"rank": 2}})
    training = recipe.training.model_copy(update={"gradient_checkpointing": False})
    load = estimate_training(recipe.model, training, False, 10)
    real = catalog.build("models", {"type": kind, "path": model["path"], "device": "cpu", **sampling})
    of_pair = 2 * torch.Size(real.latent_shape).numel() + real.encode_prompts(["a star"])[TEXT_STATES].numel()
    assert load.encoded == 4.0 * 10 * of_pair
    # The network in bf16, its activations, and the adapters in float32.
    assert count_bytes(real.network) / 2 < load.memory < estimate_training(recipe.model, training, True, 10).memory
    drawing = estimate_drawing(recipe.model.model_copy(update={"dtype": "bf16"}), False, 4, 1)
    assert drawing.pixels == (16, 32) and drawing.memory > count_bytes(real.network) / 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "billions", "of_text"),
    [
        ("flux-lora", 11.9, 4.76 + 0.12),
        ("sd35-lora", 2.47, 4.76 + 0.12 + 0.69),
        ("flux2-klein-lora", 3.88, 4.02),
        ("qwen-image-lora", 20.4, 8.29),
        ("z-image-lora", 6.15, 4.02),
    ],
)
def test_published_models_have_the_published_counts_of_weights(recipe: str, billions: float, of_text: float) -> None:
    built = Pipeline.build(resolve_recipe(recipe).model, lambda *_: torch.bfloat16)
    assert count_bytes(built.denoiser) / 2e9 == pytest.approx(billions, rel=0.005)
    assert sum(map(count_bytes, built.text_encoders)) / 2e9 == pytest.approx(of_text, rel=0.01)


def test_processes_divide_weights_gradients_moments_and_the_frozen_copy(
    tiny_sd3_generator: Path, make_recipe: Any
) -> None:
    model = {"type": "stable-diffusion-3", "path": str(tiny_sd3_generator), "device": "cpu", "sampling": {"steps": 2}}
    training = make_recipe(model=model, training={"batch": 2, "precision": "fp32", "fsdp": True}).training
    recipe = make_recipe(model=model)
    load = estimate_training(recipe.model, training, True, 10)
    whole = estimate_training(recipe.model, training.model_copy(update={"fsdp": False}), True, 10)
    weights = sum(each.numel() for each in Pipeline.build(recipe.model, lambda *_: torch.float32).denoiser.parameters())
    assert load.shared == 4 * (1 + 1 + 2 + 1) * weights
    assert load.estimate_shard_memory(1) == load.memory >= whole.memory
    assert load.estimate_shard_memory(4) == pytest.approx(load.memory - 0.75 * load.shared)
    assert whole.shared == 0.0


@pytest.mark.long
def test_of_networks_that_take_turns_the_largest_counts() -> None:
    """FLUX.1 dev in bf16: its transformer and what it computes, without the 9.8 GB of its text encoders and the VAE."""
    model = resolve_recipe("flux-lora").model
    all_at_once, in_turn = (
        estimate_drawing(model.model_copy(update={"offload": offload}), False, 1, 1).memory for offload in (False, True)
    )
    built = Pipeline.build(model, lambda *_: torch.bfloat16)
    others = built.count_bytes() - count_bytes(built.denoiser)
    assert all_at_once - in_turn > others and 23.8e9 < in_turn < 26e9
    on_cpu = model.model_copy(update={"offload": True})
    assert estimate_drawing(on_cpu, True, 1, 1).memory > 2 * built.count_bytes()


@pytest.mark.long
def test_flux_of_4_bits_is_trained_and_drawn_in_24_gb() -> None:
    """11.9 billion weights, nearly all in linear layers, of 4.5 bits: 6.7 GB in place of 23.8."""
    recipe = resolve_recipe("flux-lora", ["model.quantization=nf4", "model.offload=true"])
    denoiser = Pipeline.build(recipe.model, lambda *_: torch.bfloat16).denoiser
    assert count_bytes(denoiser) - count_saved_bytes(denoiser, "nf4") == pytest.approx(6.7e9, rel=0.01)
    drawing = estimate_drawing(recipe.model, False, 8, 1)
    training = estimate_training(recipe.model, recipe.training, False, 10)
    assert 9.5e9 < drawing.memory < 12e9 < training.memory < 20e9
