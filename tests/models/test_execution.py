"""Attention backends and compiled blocks of tiny models, drawn and trained as without them."""

from copy import deepcopy
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_diffusion
import tiny_flows
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models.configuration import FLOWS, PIPELINES
from agfsync.models.execution import check_attention, check_compiler, compile_blocks
from agfsync.training.lora import adapter_weights, adapters_off, add_adapters

CPU = torch.device("cpu")
MAKERS = {
    "stable-diffusion": tiny_diffusion.pipeline,
    "stable-diffusion-xl": tiny_diffusion.xl_pipeline,
    "stable-diffusion-3": tiny_diffusion.sd3_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
    "flux2": tiny_flows.flux2_pipeline,
    "flux2-klein": tiny_flows.flux2_klein_pipeline,
    "qwen-image": tiny_flows.qwen_image_pipeline,
    "z-image": tiny_flows.z_image_pipeline,
    "sana": tiny_flows.sana_pipeline,
}


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces and differentiates as torch.compile does, and generates no code: that takes half a minute."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))


def denoiser(type_: str) -> Any:
    pipeline = MAKERS[type_]()
    return getattr(pipeline, "unet", None) or pipeline.transformer


def draw(type_: str, folder: Path, **settings: Any) -> Any:
    model = catalog.build("models", {"type": type_, "path": str(folder), "device": "cpu", "steps": 2} | settings)
    return model, np.stack([np.asarray(each, int) for each in model.draw(["a red circle"] * 2, [1, 2], 0.1)])


@pytest.mark.parametrize("type_", PIPELINES)
def test_the_types_that_choose_their_attention_are_those_whose_layers_dispatch_it(type_: str) -> None:
    processors = [getattr(each, "processor", None) for each in denoiser(type_).modules()]
    dispatches = any(hasattr(each, "_attention_backend") for each in processors)
    assert dispatches == (type_ in FLOWS and FLOWS[type_].chooses_attention)


def test_a_chosen_attention_draws_the_same_and_is_no_other_models(tiny_flux_generator: Path) -> None:
    plain, images = draw("flux", tiny_flux_generator)
    chosen, others = draw("flux", tiny_flux_generator, attention="_native_math")
    backends = {
        getattr(each.processor, "_attention_backend", 0)
        for each in chosen.network.transformer_blocks[0].children()
        if hasattr(each, "processor")
    }
    assert backends == {"_native_math"} and _AttentionBackendRegistry.get_active_backend()[0] == "native"
    assert abs(images - others).max() <= 1 and plain.identity != chosen.identity


def test_a_type_without_the_choice_says_so(tiny_sd3_generator: Path, tiny_generator: Path) -> None:
    for type_, folder in (("stable-diffusion-3", tiny_sd3_generator), ("stable-diffusion", tiny_generator)):
        with pytest.raises(ModelError, match=f"{type_} has no choice of attention .*leave out attention flash"):
            draw(type_, folder, attention="flash")


def test_a_backend_that_cant_run_here_is_told_in_a_line() -> None:
    for type_ in ("flux", "qwen-image", "z-image"):
        check_attention(type_, "native", CPU, torch.float32, training=True)
    with pytest.raises(ModelError, match="no attention backend 'flush': there are flash, "):
        check_attention("flux", "flush", CPU, torch.float32)
    with pytest.raises(
        ModelError, match="attention xformers can't draw with flux on cpu in float32: .*xformers>=.*leave it out"
    ):
        check_attention("flux", "xformers", CPU, torch.float32)
    with pytest.raises(ModelError, match="attention flex can't train with flux on cpu"):
        check_attention("flux", "flex", CPU, torch.float32, training=True)


def test_no_compiler_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler(CPU)

    def find_none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", find_none)
    with pytest.raises(ModelError, match="compile needs a C.. compiler: install g"):
        check_compiler(CPU)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("type_", PIPELINES)
def test_a_compiled_network_keeps_names_predictions_and_adapters(type_: str) -> None:
    network, shape = denoiser(type_).requires_grad_(False), {"rank": 2, "alpha": 4.0, "seed": 0}
    targets = ("to_q", "to_v")
    add_adapters(network, **shape, targets=targets)
    plain = deepcopy(network)
    compile_blocks(network)
    compiled = [each for each in network.modules() if each._compiled_call_impl is not None]
    assert compiled and network not in compiled
    assert list(network.state_dict()) == list(plain.state_dict())
    assert adapter_weights(network, 2, 4.0).keys() == adapter_weights(plain, 2, 4.0).keys()
    assert not any(each._compiled_call_impl is not None for each in deepcopy(network).modules())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("kind", ["stable-diffusion", "stable-diffusion-3", "flux"])
def test_a_compiled_model_draws_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    names = {"stable-diffusion-3": "tiny_sd3_generator", "flux": "tiny_flux_generator"}
    folder = request.getfixturevalue(names.get(kind, "tiny_generator"))
    plain, images = draw(kind, folder)
    compiled, others = draw(kind, folder, compile=True)
    assert abs(images - others).max() <= 1 and plain.identity != compiled.identity
    saved = folder.parent / f"{kind}-saved"
    compiled.save(saved)
    _, again = draw(kind, saved)
    assert np.array_equal(again, images)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_adapters_go_off_and_on_in_a_compiled_network(tiny_flux_generator: Path) -> None:
    model = catalog.build("models", {"type": "flux", "path": str(tiny_flux_generator), "device": "cpu"})
    told, times = model.encode_prompts(["a red circle"]), torch.tensor([0.4])
    noisy = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    base = model.predict(model.network, noisy, times, told)
    add_adapters(model.network, 2, 2, 0, model.adapter_targets)
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            weight += 0.1 * ("lora_B" in name)
    adapted = model.predict(model.network, noisy, times, told)
    compile_blocks(model.network)
    for _ in range(2):
        on = model.predict(model.network, noisy, times, told)
        with adapters_off(model.network), torch.inference_mode():
            off = model.predict(model.network, noisy, times, told)
        torch.testing.assert_close(on, adapted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(off, base, rtol=1e-4, atol=1e-5)
    assert (on - off).abs().max() > 1e-3
    on.square().mean().backward()
    assert all(p.grad is not None for p in model.network.parameters() if p.requires_grad)
