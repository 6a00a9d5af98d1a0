"""A second implementation, as plain as can be, with which losses and gradients agree.

Images and captions of one pair at a time are encoded where they are used, by diffusers' own pipeline; the reference
is a deep copy; noising is the scheduler's; each image goes through each network by itself; and the losses are written
out as in their papers.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image
from tiny_diffusion import pipeline
from torch import Tensor, nn

from agfsync import catalog
from agfsync.models.latents import to_tensor
from agfsync.models.schedules import LossSpace
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.records import derive_seed
from agfsync.training import Reference
from agfsync.training.batches import EncodedPairs
from agfsync.training.lora import add_adapters
from agfsync.training.methods.pairs import PairMethod, compute_pair_errors
from agfsync.training.noising import PairNoise
from agfsync.training.reference import AdaptersOff, FrozenCopy

BETA, GAMMA = 50.0, 5.0
PAIRS = 4
PROMPTS = ["a red circle", "two green squares", "a large yellow ring", "a red circle"]
# From a signal-to-noise ratio of about 40, far above gamma, to one of 0.006.
NOISE = PairNoise(
    torch.randn(PAIRS, 4, 8, 8, generator=torch.Generator().manual_seed(derive_seed(5, "noise", 0))),
    torch.tensor([735, 25, 120, 980]),
)
Nudge = Callable[[nn.Module], None]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny, folder = pipeline(), tmp_path_factory.mktemp("models") / str(request.param)
    tiny.scheduler.register_to_config(prediction_type=request.param)
    tiny.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(model: Path) -> StableDiffusionPipeline:
    """The whole model by diffusers; of its networks the encoders alone are asked, and nothing changes them."""
    return StableDiffusionPipeline.from_pretrained(model, use_safetensors=True)


def draw_images(seed: int, darkest: int, brightest: int) -> list[Image.Image]:
    source = torch.Generator().manual_seed(seed)
    pixels = torch.randint(darkest, brightest, (PAIRS, 16, 16, 3), generator=source, dtype=torch.uint8)
    return [Image.fromarray(each.numpy()) for each in pixels]


# Far apart: of like images the gradients all but cancel, and what is left is rounding.
WINNERS, LOSERS = draw_images(1, 160, 256), draw_images(2, 0, 96)


class Naive:
    """Diffusion-DPO and its kin on `pipe`, whose UNet is `trained`."""

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        trained: nn.Module,
        base: nn.Module,
        gamma: float | None,
        of_noise: bool = False,
    ) -> None:
        self.pipe, self.trained, self.base, self.gamma, self.of_noise = pipe, trained, base, gamma, of_noise

    def loss(self, kind: str) -> Tensor:
        total = torch.zeros(())
        for row in range(PAIRS):
            winner = self.log_ratio(WINNERS[row], row)
            loser = self.log_ratio(LOSERS[row], row)
            total = total + self.penalty(kind, winner - loser)
        return total / PAIRS

    def penalty(self, kind: str, ratio: Tensor) -> Tensor:
        if kind == "dpo":
            return -torch.log(1 / (1 + torch.exp(-BETA * ratio)))
        if kind == "ipo":
            return BETA**2 * (ratio - 1 / (2 * BETA)) ** 2
        return torch.clamp(1 - BETA * ratio, min=0)

    def log_ratio(self, image: Image.Image, row: int) -> Tensor:
        """-(m - m^ref) / 2, times the weight of the timestep."""
        clean, text = self.encode(image, row)
        change = self.error(self.trained, clean, text, row) - self.error(self.base, clean, text, row).detach()
        return -change / 2 * self.weight(NOISE.times_P[row])

    def error(self, network: nn.Module, latents: Tensor, text: Tensor, row: int) -> Tensor:
        scheduler = self.pipe.scheduler
        noise, timestep = NOISE.noise_PCHW[row, None], NOISE.times_P[row, None]
        wanted = noise
        if scheduler.config.prediction_type == "v_prediction":
            wanted = scheduler.get_velocity(latents, noise, timestep)
        noisy = scheduler.add_noise(latents, noise, timestep)
        predicted = network(noisy, timestep, text).sample
        if self.of_noise and scheduler.config.prediction_type == "v_prediction":
            alpha = scheduler.alphas_cumprod[timestep].item()
            predicted, wanted = math.sqrt(alpha) * predicted + math.sqrt(1 - alpha) * noisy, noise
        return F.mse_loss(predicted, wanted)

    @torch.no_grad()
    def encode(self, image: Image.Image, row: int) -> tuple[Tensor, Tensor]:
        """Encode an image and its caption, for both networks."""
        latents = self.pipe.vae.encode(to_tensor([image])).latent_dist.mode() * self.pipe.vae.config.scaling_factor
        return latents, self.pipe.encode_prompt(PROMPTS[row], "cpu", 1, False)[0]

    def weight(self, timestep: Tensor) -> float:
        if self.gamma is None:
            return 1.0
        alpha = self.pipe.scheduler.alphas_cumprod[timestep].item()
        snr = alpha / (1 - alpha)
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            return min(snr, self.gamma) / (snr + 1)
        return min(snr, self.gamma) / snr


def prepare(denoiser: StableDiffusion, lora: bool) -> Reference:
    if lora:
        add_adapters(denoiser.network, rank=2, alpha=4, seed=0)
        return AdaptersOff(denoiser.network)
    reference = FrozenCopy(denoiser.network, "fp32")
    denoiser.network.requires_grad_(True)
    return reference


def encoded(denoiser: StableDiffusion) -> EncodedPairs:
    rows = torch.arange(PAIRS)
    latents = denoiser.encode_images([*WINNERS, *LOSERS])
    return EncodedPairs(latents, denoiser.encode_prompts(PROMPTS[:3]), rows, rows + PAIRS, rows % 3)


@pytest.mark.parametrize(
    ("kind", "gamma", "space"),
    [
        ("dpo", None, "model"),
        ("dpo", None, "epsilon"),
        ("dpo", GAMMA, "model"),
        ("ipo", None, "model"),
        ("ipo", None, "epsilon"),
        ("hinge", GAMMA, "model"),
    ],
)
@pytest.mark.parametrize("lora", [False, True])
def test_losses_and_gradients_agree(
    model: Path,
    pipe: StableDiffusionPipeline,
    nudge: Nudge,
    lora: bool,
    kind: str,
    gamma: float | None,
    space: LossSpace,
) -> None:
    denoiser = StableDiffusion(str(model), device="cpu")
    base = deepcopy(denoiser.network)
    reference = prepare(denoiser, lora)
    nudge(denoiser.network)
    trained = [p for p in denoiser.network.parameters() if p.requires_grad]

    method: PairMethod = catalog.build("methods", {"type": kind, "beta": BETA})
    batch = encoded(denoiser).make_batch(torch.arange(PAIRS), denoiser.device)
    loss, _ = method.loss(compute_pair_errors(denoiser, reference, batch, NOISE, "fp32", gamma, space))
    gradients = torch.autograd.grad(loss, trained)

    naive = Naive(pipe, denoiser.network, base, gamma, space == "epsilon").loss(kind)
    naive_gradients = torch.autograd.grad(naive, trained)
    untrained = {"dpo": math.log(2), "ipo": 0.25, "hinge": 1.0}[kind]
    assert loss.item() != pytest.approx(untrained, abs=2e-6, rel=0)
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-5)
    scale = max(gradient.abs().max() for gradient in naive_gradients)
    assert scale > 0
    for ours, theirs in zip(gradients, naive_gradients, strict=True):
        # In fp32 the way over epsilon rounds a little more.
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-5, atol=2e-5)
