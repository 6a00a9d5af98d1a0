"""Pairs of images of several sizes on a tiny SDXL: each is told to the network as it came and was cut."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor, nn

from agfsync.engine.progress import SilentProgress
from agfsync.models.refiner import TIME_IDS
from agfsync.models.schedules import DiffusionSchedule
from agfsync.models.stable_diffusion_xl import StableDiffusionXL
from agfsync.recipe import dump_recipe
from agfsync.records import Candidate, Caption, Pair
from agfsync.stages import candidates, captions, pairs, questions, training
from agfsync.stages.context import Context
from agfsync.store import Run
from agfsync.training.batches import EncodedPairs
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import compute_pair_errors
from agfsync.training.noising import draw_pair_noise
from agfsync.training.reference import FrozenCopy

SIZES = {0: ((16, 16), (48, 32)), 1: ((24, 84), (20, 20)), 2: ((16, 24), (16, 16)), 3: ((8, 8), (96, 24))}
"""Width and height of each pair's winner and loser; the generator's own are 16 x 16."""
NAMES = ("circle", "star", "ring", "squares")
NOISE = draw_pair_noise(5, 0, torch.Size([len(SIZES), 4, 8, 8]), DiffusionSchedule(torch.ones(1000)))
BETA = 50.0


@pytest.fixture
def given(tmp_path: Path, make_recipe: Any, tiny_xl_generator: Path) -> Iterator[Context]:
    """A run of the pair set, up to the pairs."""
    generator = {
        "type": "stable-diffusion-xl",
        "path": str(tiny_xl_generator),
        "device": "cpu",
        "sampling": {"steps": 2},
    }
    settings = {"steps": 2, "batch": 4, "learning_rate": 1e-3, "precision": "fp32", "method": {"beta": BETA}}
    source = {"source": str(_pair_set(tmp_path / "set"))}
    recipe = make_recipe(model=generator, training=settings, pairs=source)
    with Run.create(tmp_path / "run", dump_recipe(recipe)) as run:
        context = Context(run, recipe, SilentProgress(), "digest")
        for stage in (captions, questions, candidates, pairs):
            stage.run(context)
        yield context


def _pair_set(folder: Path) -> Path:
    noise = np.random.default_rng(0)
    for number, sizes in SIZES.items():
        for side, (width, height), darkest in zip(("winner", "loser"), sizes, (160, 0), strict=True):
            (folder / side).mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(darkest, darkest + 96, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{number}.png")
        (folder / "winner" / f"{number}.txt").write_text(f"a {NAMES[number]}")
    return folder


def _naive_ids(width: int, height: int) -> list[int]:
    """As diffusers' own training script has it: scaled until the shorter side fits, then cut in the middle."""
    short = min(width, height)
    across, down = round(16 * width / short), round(16 * height / short)
    return [height, width, round((down - 16) / 2), round((across - 16) / 2), 16, 16]


def _order(context: Context) -> list[int]:
    """Each pair's number in the pair set, in the run's order."""
    texts = {caption.key: caption.text for caption in context.run.read("captions", Caption)}
    return [NAMES.index(texts[pair.caption_key].split()[-1]) for pair in context.run.read("pairs", Pair)]


@pytest.mark.slow
def test_time_ids_of_winner_and_loser_are_their_own(given: Context) -> None:
    training.run(given)
    encoded = EncodedPairs.load(given.run.path / "training" / "images.safetensors", "digest")
    assert encoded is not None
    rows = torch.tensor([2, 0, 3, 1])
    numbers = [_order(given)[row] for row in rows]
    ids = encoded.make_batch(rows, torch.device("cpu")).conditioning[TIME_IDS].tolist()
    assert ids[:4] == [_naive_ids(*SIZES[number][0]) for number in numbers]
    assert ids[4:] == [_naive_ids(*SIZES[number][1]) for number in numbers]


@pytest.mark.slow
def test_a_second_plain_computation_agrees(given: Context, tiny_xl_generator: Path) -> None:
    """One image at a time, fitted, encoded and described by other means, through another copy of the network."""
    training.run(given)
    encoded = EncodedPairs.load(given.run.path / "training" / "images.safetensors", "digest")
    assert encoded is not None
    denoiser = StableDiffusionXL(str(tiny_xl_generator), device="cpu")
    reference, network = FrozenCopy(denoiser.network, "fp32"), denoiser.network
    base = deepcopy(network)
    _nudge(network)
    batch = encoded.make_batch(torch.arange(len(SIZES)), denoiser.device)
    loss, _ = DiffusionDPO(BETA).loss(compute_pair_errors(denoiser, reference, batch, NOISE))
    images = {row["key"]: row["image"]["bytes"] for row in given.run.rows("candidates", ["key", "image"])}
    assert len(images) == 2 * len(SIZES) == len(list(given.run.read("candidates", Candidate)))

    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_xl_generator, use_safetensors=True)
    folder = Path(given.recipe.pairs.source or "")
    ratios = []
    for row, number in enumerate(_order(given)):
        winner, loser = (
            _error(pipe, network, folder / side / f"{number}.png", number, row)
            - _error(pipe, base, folder / side / f"{number}.png", number, row)
            for side in ("winner", "loser")
        )
        ratios.append(-(winner - loser) / 2)
    naive = -F.logsigmoid(BETA * torch.stack(ratios)).mean()
    assert abs(loss.item() - np.log(2)) > 1e-4
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    untold = EncodedPairs(
        encoded.latents_ICHW, encoded.conditioning, encoded.winner_P, encoded.loser_P, encoded.prompt_P
    )
    blind = untold.make_batch(torch.arange(len(SIZES)), denoiser.device)
    other, _ = DiffusionDPO(BETA).loss(compute_pair_errors(denoiser, reference, blind, NOISE))
    assert abs(other.item() - naive.item()) > 1e-4, "sizes must matter, or nothing was tested"


def _nudge(network: nn.Module) -> None:
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=source)


@torch.no_grad()
def _error(pipe: Any, network: nn.Module, path: Path, number: int, row: int) -> Tensor:
    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = image.size
    scale = 16 / min(width, height)
    left, top = (width * scale - 16) / 2 / scale, (height * scale - 16) / 2 / scale
    box = (left, top, left + 16 / scale, top + 16 / scale)
    square = image if image.size == (16, 16) else image.resize((16, 16), Image.Resampling.LANCZOS, box)
    pixels = pipe.image_processor.preprocess(square)
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    text, _, pooled, _ = pipe.encode_prompt(f"a {NAMES[number]}", do_classifier_free_guidance=False)
    noise, timestep = NOISE.noise_PCHW[row, None], NOISE.times_P[row, None]
    alpha = pipe.scheduler.alphas_cumprod[timestep]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    added = {"text_embeds": pooled, "time_ids": torch.tensor([_naive_ids(width, height)], dtype=torch.float32)}
    predicted = network(noisy, timestep, text, added_cond_kwargs=added).sample
    return F.mse_loss(predicted, noise)
