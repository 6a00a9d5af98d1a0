"""Networks with weights of 4 and 8 bits: how far off, how many bytes, drawn with and under a LoRA."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_diffusion
import tiny_flows
import torch
from torch import nn

from agfsync import catalog
from agfsync.engine.packages import QUANTIZED_BY
from agfsync.errors import RecipeError
from agfsync.models.quantization import _BLOCK, count_saved_bytes, list_quantized, quantize_network
from agfsync.training.lora import adapter_weights, adapters_off, add_adapters
from agfsync.training.reference import round_frozen_layers

CPU = torch.device("cpu")
BELOW = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0)
ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0)
NF4 = torch.tensor([*BELOW, *ABOVE])
"""The code of QLoRA's appendix E."""
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


@pytest.fixture(params=QUANTIZED_BY)
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(QUANTIZED_BY[request.param])
    return str(request.param)


def round_naively(weight_OI: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "nf4":
        blocks = weight_OI.reshape(-1, _BLOCK)
        scale = blocks.abs().amax(1, keepdim=True)
        return (NF4[(blocks[..., None] / scale[..., None] - NF4).abs().argmin(-1)] * scale).reshape(weight_OI.shape)
    scale = weight_OI.abs().amax(1, keepdim=True)
    if kind == "int8":
        return (weight_OI / scale * 127.5).round().clamp(-128, 127) * scale / 127.5
    return (weight_OI / scale * 448).to(torch.float8_e4m3fn).float() * scale / 448


@pytest.mark.parametrize(("kind", "most"), [("nf4", 1e-5), ("int8", 5e-3), ("fp8", 2e-2)])
def test_weights_are_rounded_as_the_papers_say(kind: str, most: float) -> None:
    pytest.importorskip(QUANTIZED_BY[kind])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(128, 64), nn.SiLU())
    naive = torch.nn.functional.linear(torch.eye(128), round_naively(network[0].weight.detach(), kind), network[0].bias)
    quantize_network(network, kind, CPU, torch.float32)
    found = network[0](torch.eye(128))
    assert (found - naive).abs().max() < most * naive.abs().max()


def test_the_bytes_that_are_saved_are_counted(kind: str) -> None:
    network = nn.Sequential(nn.Linear(128, 64), nn.Conv2d(3, 3, 1), nn.Linear(64, 128, bias=False)).bfloat16()
    saved = count_saved_bytes(network, kind)
    bits = 4 + 32 / _BLOCK if QUANTIZED_BY[kind] == "bitsandbytes" else 8
    assert saved == 2 * 64 * 128 * (16 - bits) / 8 and count_saved_bytes(network, None) == 0
    quantize_network(network, kind, CPU, torch.bfloat16)
    assert type(network[1].weight) is nn.Parameter
    if QUANTIZED_BY[kind] == "bitsandbytes":
        weights = [network[0].weight, network[2].weight]
        assert sum(
            each.nbytes + each.quant_state.absmax.nbytes for each in weights
        ) == 4 * 64 * 128 - saved and not list_quantized(network)


def test_a_package_that_isnt_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="model.quantization nf4 needs the package bitsandbytes: pip install"):
        quantize_network(nn.Linear(2, 2), "nf4", CPU, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("type_", MAKERS)
def test_a_quantized_model_draws_and_trains_a_lora(type_: str, dtype: str, kind: str, tmp_path: Path) -> None:
    MAKERS[type_]().save_pretrained(tmp_path / "model")
    settings = {"type": type_, "path": str(tmp_path / "model"), "steps": 2, "height": 16, "width": 16}
    settings |= {"device": "cpu", "dtype": dtype}

    def load(**more: Any) -> Any:
        return catalog.build("models", settings | more)

    def draw(model: Any) -> Any:
        return np.stack([np.asarray(each, int) for each in model.draw(["a red circle"] * 2, [1, 2], 0.1)])

    plain, quantized = load(), load(quantization=kind)
    images, others = draw(plain), draw(quantized)
    assert 0 < abs(images - others).mean() < 12 and plain.identity != quantized.identity

    network = quantized.network
    add_adapters(network, 2, 2, 0, quantized.adapter_targets)
    round_frozen_layers(network, dtype)
    told, noisy = quantized.encode_prompts(["a star"]), torch.randn(1, *quantized.latent_shape)
    times = quantized.schedule.times(torch.Generator().manual_seed(0), 1)

    def predict() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return quantized.predict(network, noisy, times, told).float()

    with torch.no_grad():
        base = predict()
    with torch.no_grad():
        for weight in (each for each in network.parameters() if each.requires_grad):
            weight += 0.02 * torch.randn(weight.shape)
    with adapters_off(network), torch.inference_mode():
        assert torch.equal(predict(), base)
    predict().square().mean().backward()
    adapters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert adapters and all("lora_" in name for name in adapters)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())

    quantized.save_adapter(adapter_weights(network, 2, 2), tmp_path / "adapter")
    again = load(quantization=kind, adapter=tmp_path / "adapter")
    assert not np.array_equal(draw(again), others)
    assert {type(each) for n, each in again.network.named_modules() if "lora_" in n and "." in n} & {nn.Linear}
