"""Operations and memory, counted without numbers, against what is known of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2ForConditionalGeneration, CLIPModel

from agfsync.commands.doctor.loads import JUDGES, ImageBatch
from agfsync.commands.doctor.machine import SHARE, Speed
from agfsync.commands.doctor.networks import Pipeline
from agfsync.models.counting import DATALESS, Operations, build_network, count_bytes, count_operations
from agfsync.models.published import read_config
from agfsync.recipe import ModelSettings

TERA = 1e12
SD15, XL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"


def _count_flops(work: Operations) -> float:
    return sum(work.flops.values())


def test_a_multiply_add_is_two_operations() -> None:
    rows, layer = torch.empty(10, 30), nn.Linear(30, 20, bias=False)
    with torch.no_grad():
        work = count_operations(lambda: layer(rows))
    assert work.flops == {torch.float32: 2 * 10 * 30 * 20}
    assert work.moved == 4 * (10 * 30 + 30 * 20 + 10 * 20) and work.calls == 1


def test_a_result_takes_memory_until_it_is_let_go_of() -> None:
    def chain() -> None:
        row = torch.empty(1000)
        for _ in range(5):
            row = row + 1

    assert count_operations(chain).peak == 2 * 4000


def test_what_the_backward_pass_needs_is_kept() -> None:
    network = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.SiLU()) for _ in range(6)])
    with torch.no_grad():
        forward_only = count_operations(lambda: network(torch.empty(256, 64)))
    both = count_operations(lambda: network(torch.empty(256, 64)).sum().backward())
    assert _count_flops(both) == pytest.approx(3 * _count_flops(forward_only), rel=0.1)
    assert both.peak > 3 * forward_only.peak


def test_torchs_own_counters_say_the_same() -> None:
    """MemTracker's peak and FlopCounterMode's sum, of a forward and a backward pass."""
    with DATALESS:
        network = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 64))
        rows = torch.empty(32, 64)

    def run() -> None:
        network(rows).square().sum().backward()

    work = count_operations(run)
    network.zero_grad()
    with DATALESS, FlopCounterMode(display=False) as counter:
        run()
    network.zero_grad()
    tracker = MemTracker()
    tracker.track_external(network)
    with DATALESS, tracker:
        run()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert work.peak == peak["Total"] - count_bytes(network)
    assert _count_flops(work) == counter.get_total_flops()


@pytest.mark.slow
def test_recomputed_activations_take_less_memory_and_more_work() -> None:
    def works(recompute: bool) -> Operations:
        config = {
            "sample_size": 32, "block_out_channels": (32, 64), "layers_per_block": 2, "cross_attention_dim": 16,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 8, "attention_head_dim": 8,
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }  # fmt: skip
        network: Any = build_network(UNet2DConditionModel, config).train()
        if recompute:
            network.enable_gradient_checkpointing()
        inputs = (torch.empty(8, 4, 32, 32), torch.tensor(1), torch.empty(8, 7, 16))
        return count_operations(lambda: network(*inputs).sample.sum().backward())

    kept, again = works(False), works(True)
    assert again.peak < 0.7 * kept.peak
    assert _count_flops(kept) < _count_flops(again) < 1.5 * _count_flops(kept)


def test_time_is_the_multiplications_the_bytes_and_the_calls() -> None:
    speed = Speed({torch.float32: 1e9, torch.bfloat16: 2e9}.__getitem__, 1e8, 1e-3)
    work = Operations(flops={torch.bfloat16: 1e9}, moved=1e8, calls=2)
    assert speed.seconds(work) == pytest.approx(1 / (2 * SHARE) + 1 + 2e-3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "parameters", "denoise", "decode", "encode"),
    [(SD15, 859_520_964, 0.803, 2.51, 1.12), (XL, 2_567_463_684, 6.76, 10.5, 4.88)],
)
def test_the_published_diffusion_models_take_what_is_known_of_them(
    model: str, parameters: int, denoise: float, decode: float, encode: float
) -> None:
    def count(run: Callable[[], Any]) -> float:
        with torch.no_grad():
            return _count_flops(count_operations(run)) / TERA

    pipeline = Pipeline.build(ModelSettings(path=model))
    assert sum(p.numel() for p in pipeline.denoiser.parameters()) == parameters
    assert count(pipeline.prepare_denoising(1)) == pytest.approx(denoise, rel=0.005)
    assert count(lambda: pipeline.vae.decode(torch.empty(1, *pipeline.latent))) == pytest.approx(decode, rel=0.005)
    pixels = torch.empty(1, 3, *pipeline.pixels)
    assert count(lambda: pipeline.vae.encode(pixels)) == pytest.approx(encode, rel=0.005)


@pytest.mark.slow
def test_the_published_judges_take_what_is_known_of_them() -> None:
    def count(run: Callable[[], Any]) -> float:
        with torch.no_grad():
            return _count_flops(count_operations(run)) / TERA

    pixels = torch.empty(1, 3, 224, 224)
    clip: Any = build_network(CLIPModel, read_config("openai/clip-vit-large-patch14"))
    assert sum(p.numel() for p in clip.parameters()) == 427_616_513
    assert count(lambda: clip.vision_model(pixels)) == pytest.approx(0.162, rel=0.005)
    config = read_config("Salesforce/blip2-flan-t5-xxl")
    blip: Any = build_network(Blip2ForConditionalGeneration, config, torch.bfloat16)
    assert count_bytes(blip) == pytest.approx(24.4e9, rel=0.02)
    pixels = pixels.bfloat16()
    assert count(lambda: blip.vision_model(pixels)) == pytest.approx(0.521, rel=0.005)
    with DATALESS, torch.no_grad():
        words = torch.empty(1, 57, 4096).bfloat16()
        seen = blip.vision_model(pixels).last_hidden_state
        read = blip.language_model.encoder(inputs_embeds=words).last_hidden_state
    former = count(lambda: blip.qformer(query_embeds=blip.query_tokens, encoder_hidden_states=seen))
    assert former == pytest.approx(0.013, rel=0.03)
    assert count(lambda: blip.language_model.encoder(inputs_embeds=words)) == pytest.approx(0.529, rel=0.005)
    first = torch.zeros(1, 1).long()
    language = blip.language_model
    assert count(lambda: language(encoder_outputs=(read,), decoder_input_ids=first)) == pytest.approx(0.103, rel=0.005)


@pytest.mark.slow
def test_the_published_vision_language_judges_take_what_is_known_of_them() -> None:
    """Their parameters as published; HPSv3's work is that of the layers counted one by one, without attention's own."""
    for type_, path, parameters in (
        ("vlm", "Qwen/Qwen3-VL-8B-Instruct", 8.767e9),
        ("hpsv3", "Qwen/Qwen2-VL-7B-Instruct", 8.291e9),
    ):
        batch = ImageBatch(images=1, prompts=1, questions=9)
        (model,), ((look, times),) = JUDGES[type_](read_config(path), batch, torch.bfloat16)
        assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(parameters, rel=0.001)
        assert look.memory < 1e9 < count_bytes(model) == look.moved
    seeing, reading = 32 * 12 * 1280**2, 28 * (3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944)
    # What merges four patches to a token counts for each.
    assert _count_flops(look) * times == pytest.approx(2 * (256 * 4 * seeing + (256 + 600) * reading), rel=0.02)
