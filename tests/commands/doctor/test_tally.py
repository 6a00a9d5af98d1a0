"""Operations and memory, counted without numbers, against what is known of them."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import Blip2ForConditionalGeneration, CLIPModel

from agfsync.commands.doctor.machine import SHARE, Speed
from agfsync.commands.doctor.networks import Source, denoising, latent_shape, made, pipeline, size, typed
from agfsync.commands.doctor.tally import Operation, Work, imagined, tally

TERA = 1e12
SD15, XL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"


def test_a_multiply_add_is_two_operations() -> None:
    with imagined(), torch.no_grad():
        layer = nn.Linear(30, 20, bias=False)
        work = tally(lambda: layer(torch.empty(10, 30)))
    assert work.flops == 2 * 10 * 30 * 20
    (only,) = [each for each in work.operations if each.flops]
    assert only.bytes == 4 * (10 * 30 + 30 * 20 + 10 * 20)


def test_a_result_takes_memory_until_it_is_let_go_of() -> None:
    def chain() -> None:
        row = torch.empty(1000)
        for _ in range(5):
            row = row + 1

    with imagined():
        assert tally(chain).peak == 2 * 4000


def test_what_the_backward_pass_needs_is_kept() -> None:
    with imagined():
        network = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.SiLU()) for _ in range(6)])
        forward_only = tally(lambda: _without_gradient(network))
        both = tally(lambda: network(torch.empty(256, 64)).sum().backward())
    assert both.flops == pytest.approx(3 * forward_only.flops, rel=0.1)
    assert both.peak > 3 * forward_only.peak


def _without_gradient(network: nn.Module) -> None:
    with torch.no_grad():
        network(torch.empty(256, 64))


@pytest.mark.slow
def test_recomputed_activations_take_less_memory_and_more_work() -> None:
    def works(recompute: bool) -> Work:
        with imagined():
            network = UNet2DConditionModel(
                sample_size=32, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=16,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=8, attention_head_dim=8,
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            )  # fmt: skip
            network.train()
            if recompute:
                network.enable_gradient_checkpointing()
            inputs = (torch.empty(8, 4, 32, 32), torch.tensor(1), torch.empty(8, 7, 16))
            return tally(lambda: network(*inputs).sample.sum().backward())

    kept, again = works(False), works(True)
    assert again.peak < 0.7 * kept.peak
    assert kept.flops < again.flops < 1.5 * kept.flops


def test_time_is_the_multiplications_the_bytes_and_the_calls() -> None:
    speed = Speed({torch.float32: 1e9, torch.bfloat16: 2e9}.__getitem__, 1e8, 1e-3)
    one, two = Operation(1e9, 0, torch.bfloat16), Operation(0, 1e8, torch.int64)
    assert speed.seconds(Work([one, two])) == pytest.approx(1 / (2 * SHARE) + 1 + 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parameters", "denoise", "decode", "encode"),
    [(SD15, 859_520_964, 0.803, 2.51, 1.12), (XL, 2_567_463_684, 6.76, 10.5, 4.88)],
)
def test_the_published_diffusion_models_take_what_is_known_of_them(
    model: str, parameters: int, denoise: float, decode: float, encode: float
) -> None:
    with imagined(), torch.no_grad():
        networks = pipeline(Source(model))
        latent = latent_shape(networks, None, None)
        call, vae = denoising(networks, latent, 1), networks["vae"]
        assert sum(p.numel() for p in networks["unet"].parameters()) == parameters
        assert tally(lambda: call(networks["unet"])).flops / TERA == pytest.approx(denoise, rel=0.005)
        assert tally(lambda: vae.decode(torch.empty(1, *latent))).flops / TERA == pytest.approx(decode, rel=0.005)
        pixels = torch.empty(1, 3, 8 * latent[1], 8 * latent[2])
        assert tally(lambda: vae.encode(pixels)).flops / TERA == pytest.approx(encode, rel=0.005)


@pytest.mark.slow
def test_the_published_judges_take_what_is_known_of_them() -> None:
    with imagined(), torch.no_grad():
        pixels = torch.empty(1, 3, 224, 224)
        clip = made(CLIPModel, Source("openai/clip-vit-large-patch14").settings("config.json"))
        assert sum(p.numel() for p in clip.parameters()) == 427_616_513
        assert tally(lambda: clip.vision_model(pixels)).flops / TERA == pytest.approx(0.162, rel=0.005)
        blip = made(Blip2ForConditionalGeneration, Source("Salesforce/blip2-flan-t5-xxl").settings("config.json"))
        assert tally(lambda: blip.vision_model(pixels)).flops / TERA == pytest.approx(0.521, rel=0.005)
        seen = blip.vision_model(pixels).last_hidden_state
        former = tally(lambda: blip.qformer(query_embeds=blip.query_tokens, encoder_hidden_states=seen))
        assert former.flops / TERA == pytest.approx(0.013, rel=0.03)
        language, words = blip.language_model, torch.empty(1, 57, 4096)
        assert tally(lambda: language.encoder(inputs_embeds=words)).flops / TERA == pytest.approx(0.529, rel=0.005)
        read = language.encoder(inputs_embeds=words).last_hidden_state
        first = tally(lambda: language(encoder_outputs=(read,), decoder_input_ids=torch.zeros(1, 1).long()))
        assert first.flops / TERA == pytest.approx(0.103, rel=0.005)
        assert size(typed(blip, torch.bfloat16)) == pytest.approx(24.4e9, rel=0.02)
