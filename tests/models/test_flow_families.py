"""Random models of FLUX.2 dev and klein, Qwen-Image, Z-Image and Sana: each draws what its pipeline of diffusers draws.

The losses are those of a naive computation that sees one image at a time, by the network's own call in the pipeline.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flows
import torch
import torch.nn.functional as F
from diffusers import Flux2KleinPipeline, Flux2Pipeline, QwenImagePipeline, SanaPipeline, ZImagePipeline
from torch import Tensor, nn

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models.architecture import TEXT_STATES
from agfsync.models.dtypes import Precision
from agfsync.models.flow_matching import TEXT_MASK
from agfsync.pipeline.generators import check_drawing
from agfsync.recipe.types import find_settings
from agfsync.training.batches import EncodedPairs
from agfsync.training.lora import adapter_weights, add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import compute_pair_errors
from agfsync.training.noising import PairNoise
from agfsync.training.reference import AdaptersOff
from agfsync.training.trainable import NEEDED_FOR, list_missing

PROMPTS = ["a red circle left of a blue star", "two small green squares", "a large yellow ring"]
SEEDS = (5, 6)
Told = dict[str, Tensor]


@dataclass(frozen=True)
class FamilyCase:
    """A family: its pipeline, and how that is called with given embeddings and starting noise."""

    pipeline: Any
    make: Callable[..., Any]
    call: Callable[[Any, Tensor, Told, Told], Tensor]
    """(pipeline, start, conditioning, that of the negative prompt) -> the VAE's latents before decoding"""
    velocity: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    """(network, noisy latents of one image, s, its text without padding (1, T, D)) -> velocity"""
    size: tuple[int, int] = (16, 24)
    guidance: float = 4.0


def call_klein(pipe: Any, start: Tensor, told: Told, untold: Told) -> Tensor:
    texts = {"prompt_embeds": told[TEXT_STATES], "negative_prompt_embeds": untold[TEXT_STATES]}
    return pipe(**texts, latents=start)


def call_flux2(pipe: Any, start: Tensor, told: Told, untold: Told) -> Tensor:
    tokens = pipe(prompt_embeds=told[TEXT_STATES], latents=start)
    return for_vae(pipe.vae, tokens.transpose(1, 2).reshape(start.shape))


def for_vae(vae: Any, latents: Tensor) -> Tensor:
    """FLUX.2's latents without the normalisation, four of them in the place of one."""
    deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    return F.pixel_shuffle(latents * deviation.view(1, -1, 1, 1) + vae.bn.running_mean.view(1, -1, 1, 1), 2)


def call_qwen(pipe: Any, start: Tensor, told: Told, untold: Told) -> Tensor:
    batch, channels, height, width = start.shape
    texts = {"prompt_embeds": told[TEXT_STATES], "prompt_embeds_mask": told[TEXT_MASK].long()}
    texts |= {f"negative_{n}": t for n, t in zip(texts, (untold[TEXT_STATES], untold[TEXT_MASK].long()), strict=True)}
    packed = pipe(**texts, latents=pipe._pack_latents(start, batch, channels, height, width))
    return pipe.pipeline._unpack_latents(packed, 2 * height, 2 * width, 2)[:, :, 0]


def call_z_image(pipe: Any, start: Tensor, told: Told, untold: Told) -> Tensor:
    texts = [[t[m] for t, m in zip(each[TEXT_STATES], each[TEXT_MASK], strict=True)] for each in (told, untold)]
    return pipe(prompt_embeds=texts[0], negative_prompt_embeds=texts[1], latents=start)


def call_sana(pipe: Any, start: Tensor, told: Told, untold: Told) -> Tensor:
    texts = {"prompt_embeds": told[TEXT_STATES], "prompt_attention_mask": told[TEXT_MASK].long()}
    texts |= {f"negative_{n}": t for n, t in zip(texts, (untold[TEXT_STATES], untold[TEXT_MASK].long()), strict=True)}
    return pipe(**texts, negative_prompt=None, latents=start, use_resolution_binning=False)


def flux2_velocity(net: Any, noisy: Tensor, s: Tensor, text: Tensor) -> Tensor:
    return klein_velocity(partial(net, guidance=torch.tensor([4.0])), noisy, s, text)


def klein_velocity(net: Any, noisy: Tensor, s: Tensor, text: Tensor) -> Tensor:
    ids = {
        "txt_ids": Flux2KleinPipeline._prepare_text_ids(text),
        "img_ids": Flux2KleinPipeline._prepare_latent_ids(noisy),
    }
    found = net(Flux2KleinPipeline._pack_latents(noisy), timestep=s, encoder_hidden_states=text, **ids).sample
    return Flux2KleinPipeline._unpack_latents_with_ids(found, ids["img_ids"])  # type: ignore[return-value]


def qwen_velocity(net: Any, noisy: Tensor, s: Tensor, text: Tensor) -> Tensor:
    _, channels, height, width = noisy.shape
    packed, shapes = (
        QwenImagePipeline._pack_latents(noisy, 1, channels, height, width),
        [[(1, height // 2, width // 2)]],
    )
    found = net(packed, timestep=s, encoder_hidden_states=text, img_shapes=shapes).sample
    return QwenImagePipeline._unpack_latents(found, 2 * height, 2 * width, 2)[:, :, 0]


def z_image_velocity(net: Any, noisy: Tensor, s: Tensor, text: Tensor) -> Tensor:
    return -net([noisy[0][:, None]], 1 - s, [text[0]]).sample[0].transpose(0, 1)


def sana_velocity(net: Any, noisy: Tensor, s: Tensor, text: Tensor) -> Tensor:
    found: Tensor = net(noisy, encoder_hidden_states=text, timestep=1000 * s).sample
    return found


CASES = {
    "flux2": FamilyCase(Flux2Pipeline, tiny_flows.flux2_pipeline, call_flux2, flux2_velocity),
    "flux2-klein": FamilyCase(Flux2KleinPipeline, tiny_flows.flux2_klein_pipeline, call_klein, klein_velocity),
    "qwen-image": FamilyCase(QwenImagePipeline, tiny_flows.qwen_image_pipeline, call_qwen, qwen_velocity),
    "z-image": FamilyCase(ZImagePipeline, tiny_flows.z_image_pipeline, call_z_image, z_image_velocity),
    "sana": FamilyCase(SanaPipeline, tiny_flows.sana_pipeline, call_sana, sana_velocity, size=(32, 64)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, case in CASES.items():
        found[name] = tmp_path_factory.mktemp("flows") / name
        case.make().save_pretrained(found[name])
    return found


@pytest.fixture(params=CASES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(folders: dict[str, Path], kind: str, **settings: Any) -> Any:
    height, width = CASES[kind].size
    common = {"type": kind, "path": str(folders[kind]), "steps": 3, "guidance": CASES[kind].guidance, "device": "cpu"}
    return catalog.build("models", common | {"height": height, "width": width} | settings)


class Theirs:
    """A pipeline of diffusers, called with the settings of `load`."""

    def __init__(self, folders: dict[str, Path], kind: str) -> None:
        self.case = CASES[kind]
        self.pipeline = self.case.pipeline.from_pretrained(folders[kind], use_safetensors=True)
        self.pipeline.set_progress_bar_config(disable=True)
        self.guided = "true_cfg_scale" if kind == "qwen-image" else "guidance_scale"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def __call__(self, *args: Any, output_type: str = "latent", **settings: Any) -> Any:
        height, width = self.case.size
        size = {"height": height, "width": width, "num_inference_steps": 3, self.guided: self.case.guidance}
        return self.pipeline(*args, output_type=output_type, **size | settings).images


def distance(some: Any, others: Any) -> int:
    """The largest difference of any pixel, on 0..255."""
    pairs = zip(some, others, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


def final_latents(generator: Any, monkeypatch: pytest.MonkeyPatch, *drawing: Any) -> Tensor:
    """What a drawing gives to its latent space."""
    seen: list[Tensor] = []
    decode = generator._latents.decode
    monkeypatch.setattr(generator._latents, "decode", lambda latents, *told: seen.append(latents) or decode(latents))
    generator.draw(*drawing)
    return seen[0]


def in_vae(generator: Any, kind: str, latents: Tensor) -> Tensor:
    """The latents as the family's `call` gives them: of FLUX.2, those of the VAE."""
    return for_vae(generator._pipeline.vae, latents) if kind.startswith("flux2") else latents


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_agrees_with_the_pipeline_of_diffusers(
    folders: dict[str, Path], kind: str, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, pipe = load(folders, kind), Theirs(folders, kind)
    told, untold = generator.encode_prompts(PROMPTS[:2]), generator.encode_prompts(["", ""])
    start = generator.draw_starting_noise(SEEDS, told)
    sources = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    noise = torch.stack([torch.randn(told[TEXT_STATES].shape[1:], generator=source) for source in sources])
    noisy = {**told, TEXT_STATES: told[TEXT_STATES] + sigma * noise}
    with torch.no_grad():
        latents = CASES[kind].call(pipe, start, noisy, untold)
    mine = in_vae(generator, kind, final_latents(generator, monkeypatch, PROMPTS[:2], SEEDS, sigma))
    torch.testing.assert_close(mine, latents, rtol=1e-5, atol=1e-5)


def test_the_very_call_that_users_of_diffusers_make(folders: dict[str, Path], kind: str) -> None:
    generator, pipe = load(folders, kind), Theirs(folders, kind)
    start = generator.draw_starting_noise(SEEDS[:1], generator.encode_prompts(PROMPTS[:1]))
    if kind == "qwen-image":
        start = QwenImagePipeline._pack_latents(start, *start.shape)
    more = {"qwen-image": {"negative_prompt": ""}, "sana": {"use_resolution_binning": False}}.get(kind, {})
    expected = pipe(prompt=PROMPTS[0], output_type="pil", latents=start, **more)
    assert distance(generator.draw(PROMPTS[:1], SEEDS[:1], 0.0), expected) <= 1


def test_a_negative_prompt_is_what_guidance_leads_away_from(folders: dict[str, Path], kind: str) -> None:
    if kind == "flux2":
        with pytest.raises(ModelError, match="flux2 has its guidance built in, away from no prompt"):
            load(folders, kind, negative_prompt=PROMPTS[1])
        return
    plain, away = load(folders, kind), load(folders, kind, negative_prompt=PROMPTS[1])
    drawn = away.draw(PROMPTS[:1], SEEDS[:1], 0.0)
    assert distance(drawn, plain.draw(PROMPTS[:1], SEEDS[:1], 0.0)) > 0 and away.identity != plain.identity
    if kind == "flux2-klein":
        return  # diffusers has no negative prompt for it
    start = away.draw_starting_noise(SEEDS[:1], away.encode_prompts(PROMPTS[:1]))
    start = QwenImagePipeline._pack_latents(start, *start.shape) if kind == "qwen-image" else start
    more = {"use_resolution_binning": False} if kind == "sana" else {}
    pipe = Theirs(folders, kind)
    expected = pipe(prompt=PROMPTS[0], output_type="pil", negative_prompt=PROMPTS[1], latents=start, **more)
    assert distance(drawn, expected) <= 1


def test_is_a_generator_that_can_be_trained_by_every_method(folders: dict[str, Path], kind: str) -> None:
    generator = load(folders, kind)
    assert [list_missing(generator, needed) for needed in NEEDED_FOR.values()] == [[]] * len(NEEDED_FOR)
    images = generator.draw(PROMPTS[:2], SEEDS, 0.0)
    latents = generator.encode_images(images)
    assert latents.shape == (2, *generator.latent_shape)
    pixels = generator.decode_pixels(latents.requires_grad_())
    assert pixels.shape == (2, 3, *CASES[kind].size) and torch.autograd.grad(pixels.sum(), latents)[0].any()


def test_latents_are_scaled_as_the_pipeline_scales_them(folders: dict[str, Path], kind: str) -> None:
    """Encoding undoes what the pipeline does before decoding."""
    generator, pipe = load(folders, kind), Theirs(folders, kind)
    images = generator.draw(PROMPTS[:1], SEEDS[:1], 0.0)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        encoded = pipe.vae.encode(pixels[:, :, None] if kind == "qwen-image" else pixels)
        mean = encoded.latent if kind == "sana" else encoded.latent_dist.mean
        scale, shift = pipe.vae.config.get("scaling_factor", 1.0), pipe.vae.config.get("shift_factor", 0.0)
        if kind.startswith("flux2"):
            expected, mine = mean, in_vae(generator, kind, generator.encode_images(images))
        elif kind == "qwen-image":
            of = [torch.tensor(pipe.vae.config[f"latents_{each}"]).view(1, -1, 1, 1) for each in ("mean", "std")]
            expected, mine = (mean[:, :, 0] - of[0]) / of[1], generator.encode_images(images)
        else:
            expected, mine = (mean - shift) * scale, generator.encode_images(images)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_losses_and_gradients_are_those_of_the_velocity(folders: dict[str, Path], kind: str) -> None:
    model, case, method = load(folders, kind), CASES[kind], DiffusionDPO(beta=100.0)
    base = deepcopy(model.network)
    add_adapters(model.network, 2, 2, 0, model.adapter_targets)
    source, shape = torch.Generator().manual_seed(3), model.latent_shape
    weights = [p for p in model.network.parameters() if p.requires_grad]
    for weight in weights:
        weight.data += 0.05 * torch.randn(weight.shape, generator=source)
    latents, rows = torch.randn(4, *shape, generator=source), torch.arange(2)
    told = model.encode_prompts(PROMPTS[:2])
    pairs = EncodedPairs(latents, told, rows, rows + 2, rows)
    noise = PairNoise(torch.randn(2, *shape, generator=source), torch.tensor([0.25, 0.875]))
    errors = compute_pair_errors(model, AdaptersOff(model.network), pairs.make_batch(rows, model.device), noise)
    loss, _ = method.loss(errors)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)

    def error(net: nn.Module, clean: Tensor, row: int) -> Tensor:
        e, s, mask = noise.noise_PCHW[row], noise.times_P[row], told.get(TEXT_MASK)
        text = told[TEXT_STATES][row, None]
        text = text if mask is None else text[:, mask[row]]
        velocity = case.velocity(net, ((1 - s) * clean + s * e)[None], s[None], text)
        return F.mse_loss(velocity, (e - clean)[None])

    naive = torch.zeros(())
    for row in range(2):
        won, lost = (
            error(model.network, latents[place], row) - error(base, latents[place], row).detach()
            for place in (row, row + 2)
        )
        naive = naive - F.logsigmoid(-method.beta / 2 * (won - lost)) / 2
    assert abs(loss.item() - np.log(2)) > 1e-5
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad(naive, weights, allow_unused=True)
    scale = max(each.abs().max() for each in theirs if each is not None)
    for mine, other in zip(gradients, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine / scale, other / scale, rtol=1e-3, atol=1e-4)


def test_frozen_weights_in_bf16_have_adapters_in_fp32(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU for an accelerator."""
    monkeypatch.setattr(Precision, "weights", property(lambda self: self.dtype))
    monkeypatch.setattr(Precision, "autocast", lambda self: nullcontext())
    model = load(folders, kind, dtype="bf16")
    assert model.network.dtype == torch.bfloat16
    told, rows = model.encode_prompts(PROMPTS[:2]), torch.arange(2)
    pairs = EncodedPairs(torch.randn(4, *model.latent_shape), told, rows, rows + 2, rows)
    add_adapters(model.network, 2, 2, 0, model.adapter_targets)
    weights = [p for p in model.network.parameters() if p.requires_grad]
    assert {p.dtype for p in weights} == {torch.float32}
    noise = PairNoise(torch.randn(2, *model.latent_shape), torch.tensor([0.25, 0.875]))
    batch = pairs.make_batch(rows, model.device)
    errors = compute_pair_errors(model, AdaptersOff(model.network), batch, noise, "bf16")
    loss, _ = DiffusionDPO(beta=100.0).loss(errors)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2), abs=1e-7)
    assert any(p.grad is not None and p.grad.any() for p in weights)


def test_a_lora_is_read_by_diffusers_and_by_this_package(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    base, trained, pipe = load(folders, kind), load(folders, kind), Theirs(folders, kind)
    add_adapters(trained.network, 2, 4, 0, trained.adapter_targets)
    source = torch.Generator().manual_seed(9)
    for key, parameter in trained.network.named_parameters():
        if "lora_B" in key:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    trained.save_adapter(adapter_weights(trained.network, 2, 4), tmp_path)
    expected = trained.draw(PROMPTS[:1], SEEDS[:1], 0.0)
    assert distance(expected, base.draw(PROMPTS[:1], SEEDS[:1], 0.0)) > 0
    adapted = load(folders, kind, adapter=tmp_path)
    assert distance(adapted.draw(PROMPTS[:1], SEEDS[:1], 0.0), expected) <= 1 and adapted.identity != base.identity
    fused = load(folders, kind, loras=[{"path": str(tmp_path), "strength": 1.0}])
    assert distance(fused.draw(PROMPTS[:1], SEEDS[:1], 0.0), expected) <= 1
    pipe.load_lora_weights(tmp_path)
    base._pipeline.transformer = pipe.transformer
    assert distance(base.draw(PROMPTS[:1], SEEDS[:1], 0.0), expected) <= 1


def test_the_whole_model_is_saved_and_drawn_with(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    whole = load(folders, kind)
    with torch.no_grad():
        for parameter in whole.network.parameters():
            parameter.add_(0.01)
    whole.save(tmp_path)
    again = load({kind: tmp_path}, kind)
    assert distance(again.draw(PROMPTS[:1], [1], 0.0), whole.draw(PROMPTS[:1], [1], 0.0)) == 0


def test_an_image_depends_on_its_prompt_and_seed_and_not_on_its_batch(folders: dict[str, Path], kind: str) -> None:
    generator = load(folders, kind)
    together = generator.draw(PROMPTS, [1, 2, 3], 0.1)
    alone = [generator.draw([prompt], [seed], 0.1)[0] for prompt, seed in zip(PROMPTS, (1, 2, 3), strict=True)]
    assert distance(together, alone) <= 1
    assert distance(together[:1], generator.draw(PROMPTS[:1], [9], 0.1)) > 4


def test_the_tokens_of_text_are_the_familys(folders: dict[str, Path], kind: str) -> None:
    with pytest.raises(ModelError, match="has no max_sequence_length: leave it out"):
        load(folders, kind, max_sequence_length=5)


def test_flux2s_guidance_is_given_to_the_network(folders: dict[str, Path]) -> None:
    weak, strong = (load(folders, "flux2", guidance=guidance) for guidance in (1.0, 8.0))
    assert weak.guidance == strong.guidance == 1.0 and weak.identity != strong.identity
    assert distance(weak.draw(PROMPTS[:1], [1], 0.0), strong.draw(PROMPTS[:1], [1], 0.0)) > 0


def test_a_tokenizer_in_a_processor_of_images_is_taken_by_itself(folders: dict[str, Path], tmp_path: Path) -> None:
    """As FLUX.2 dev is published: the processor would need torchvision."""
    shutil.copytree(folders["flux2"], tmp_path / "dev")
    file = tmp_path / "dev" / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer": ["transformers", "PixtralProcessor"]}))
    (tmp_path / "dev" / "tokenizer" / "processor_config.json").write_text('{"processor_class": "PixtralProcessor"}')
    found, expected = (load(place, "flux2").encode_prompts(PROMPTS) for place in ({"flux2": tmp_path / "dev"}, folders))
    assert torch.equal(found[TEXT_STATES], expected[TEXT_STATES])
    settings = {"type": "flux2", "path": str(tmp_path / "dev"), "sampling": {"height": 16, "width": 16}}
    assert check_drawing(find_settings("models", "flux2").model_validate(settings)) is None


def test_distilled_klein_takes_no_guidance(tmp_path: Path) -> None:
    tiny_flows.flux2_klein_pipeline(distilled=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is distilled and takes no guidance: set guidance to 1"):
        load({"flux2-klein": tmp_path}, "flux2-klein")
    assert load({"flux2-klein": tmp_path}, "flux2-klein", guidance=1.0).guidance == 1.0


def test_z_images_guidance_0_is_none(folders: dict[str, Path]) -> None:
    assert load(folders, "z-image").guidance == 5.0 and load(folders, "z-image", guidance=0.0).guidance == 1.0
    with pytest.raises(ModelError, match="guidance 0 leads away from nothing"):
        load(folders, "z-image", guidance=0.0, negative_prompt="blurry")


def test_sanas_scheduler_must_be_that_of_a_flow(folders: dict[str, Path]) -> None:
    file = folders["sana"] / "scheduler" / "scheduler_config.json"
    saved = file.read_text()
    file.write_text(json.dumps(json.loads(saved) | {"use_flow_sigmas": False}))
    with pytest.raises(ModelError, match="has no use_flow_sigmas"):
        load(folders, "sana")
    file.write_text(saved)
