"""Measure the heavy steps at full size: images/s, pairs/s, questions/s and peak memory, next to their upper bound.

    python benchmarks/full_size.py [sd15 sdxl blip2-xl blip2-xxl] [--steps 20] [--batch 8] [--pairs 4] [--repeats 3]

Weights are random, which takes the same time. The steps use the project's own classes, loaded as a run loads them. Each
line is the median of `--repeats` after one to warm up. The bound is the work in TFLOP (a multiply-add counts as two) at
the rate at which this device multiplies two large bf16 matrices, measured in the same run.
"""

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from sizes import save_blip2, save_sd15, save_sdxl

from agfsync import catalog
from agfsync.scorers.vqa import Vqa
from agfsync.training import loop
from agfsync.training.batches import EncodedPairs
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.reference import AdaptersOff, FrozenCopy

SAVE = {
    "sd15": save_sd15,
    "sdxl": save_sdxl,
    "blip2-xl": partial(save_blip2, language="xl"),
    "blip2-xxl": partial(save_blip2, language="xxl"),
}
KIND = {"sd15": "stable-diffusion", "sdxl": "stable-diffusion-xl"}
FORWARD = {"sd15": 0.803, "sdxl": 6.76}
"""TFLOP of the UNet on one picture."""
DECODE = {"sd15": 2.51, "sdxl": 10.5}
QUESTION = {"blip2-xxl": 0.691}
"""TFLOP of one question, with its share of the picture's encoding at nine questions a picture."""
QUESTIONS = 9


class Forgetful:
    """Checkpoints that keep nothing: the time to write them is not measured."""

    def last(self) -> int:
        return 0

    def restore(self, state: Any) -> int:
        return 0

    def save(self, step: int, state: Any) -> None:
        pass


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Return the median time of `work` over `repeats`, after one to warm up."""
    taken: list[float] = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[1:])


def rate() -> float:
    """Return the TFLOP/s of a large bf16 matrix product on this device."""
    side = 8192 if torch.cuda.is_available() else 2048
    left, right = (torch.randn(side, side, device=device(), dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: left @ right, 20) / 1e12


def peak() -> float:
    """Return the peak memory in GB: of the accelerator since the last model, or of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def freed() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def line(what: str, count: int, took: float, work: float | None, speed: float, unit: str) -> None:
    """Print one line: `count` units of `work` TFLOP each in `took` seconds."""
    floor = f"bound {speed / work:8.2f}, {count / took * work / speed:4.0%} of it" if work else "bound unknown"
    print(f"{what:<34} {count / took:8.3f} {unit}/s  {floor:<28} peak {peak():6.1f} GB", flush=True)


def draw(name: str, folder: str, options: argparse.Namespace, speed: float) -> None:
    """Measure drawing a caption's candidates, in one batch with guidance."""
    generator = catalog.build("models", {"type": KIND[name], "path": folder, "steps": options.steps, "dtype": "bf16"})
    work = 2 * options.steps * FORWARD[name] + DECODE[name]
    prompts, seeds = ["a large red circle"] * options.batch, list(range(options.batch))
    took = seconds(lambda: generator.draw(prompts, seeds, 0.1), options.repeats)
    line(f"{name} draws, {options.steps} steps", options.batch, took, work, speed, "images")


def train(name: str, folder: str, lora: bool, options: argparse.Namespace, speed: float) -> None:
    """Measure DPO steps on `--pairs` pairs with random latents."""
    denoiser = catalog.build("models", {"type": KIND[name], "path": folder})
    reference: Any
    if lora:
        add_adapters(denoiser.network, 16, 16.0, 0)
        reference = AdaptersOff(denoiser.network)
    else:
        reference = FrozenCopy(denoiser.network, "bf16")
        denoiser.network.requires_grad_(True)
    side = denoiser.network.config.sample_size
    conditioning = {n: t.cpu() for n, t in denoiser.encode_prompts(["a large red circle"]).items()}
    rows = torch.arange(options.pairs)
    pairs = EncodedPairs(
        torch.randn(2 * options.pairs, 4, side, side), conditioning, rows, rows + options.pairs, torch.zeros_like(rows)
    )
    plan = TrainingPlan(
        steps=options.repeats + 1,
        batch=options.pairs,
        learning_rate=1e-6,
        seed=0,
        gradient_checkpointing=options.checkpointing,
    )
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as log:
        told: Callable[[Any], None] = lambda figures: taken.append(figures["seconds"])  # noqa: E731
        forgetful: Any = Forgetful()
        objective = DiffusionDPO(2000.0).objective(pairs, plan)
        loop.train(
            Actor(denoiser, reference, plan.precision), objective, plan, forgetful, Path(log) / "metrics.jsonl", told
        )
    # Winner and loser: one forward pass each of the reference, and a forward and backward pass of the network, which is
    # three times as much; a LoRA's backward pass computes no gradient of the frozen weights.
    work = 2 * FORWARD[name] * (1 + (2 if lora else 3))
    how = "LoRA" if lora else "full"
    line(f"{name} trains, {how}", options.pairs, median(taken[1:]), work, speed, "pairs")


def ask(name: str, folder: str, options: argparse.Namespace, speed: float) -> None:
    """Measure nine questions about each of `--batch` pictures."""
    scorer = Vqa(path=folder, dtype="bf16")
    images = [Image.new("RGB", (512, 512), (n, 2 * n, 3 * n)) for n in range(options.batch)]
    questions = [["Is the large red circle in the centre?"] * QUESTIONS] * options.batch
    took = seconds(lambda: scorer.p_yes(images, questions), options.repeats)
    line(f"{name} answers", options.batch * QUESTIONS, took, QUESTION.get(name), speed, "questions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(SAVE), metavar="MODEL", help=f"of {', '.join(SAVE)}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8, help="pictures at a time")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of a training step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in training")
    parser.add_argument("--lora-only", action="store_true", help="leave out the training of the whole network")
    options = parser.parse_args()
    if unknown := set(options.models) - set(SAVE):
        parser.error(f"no model is called {', '.join(sorted(unknown))}: there are {', '.join(SAVE)}")
    speed = rate()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}: {speed:.2f} TFLOP/s of bf16 matrix products, torch {torch.__version__}", flush=True)
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            SAVE[model](Path(folder))
            freed()
            measure(model, folder, options, speed)


def measure(model: str, folder: str, options: argparse.Namespace, speed: float) -> None:
    """Print all lines of one model."""
    if model not in KIND:
        ask(model, folder, options, speed)
        return
    draw(model, folder, options, speed)
    for lora in (True,) if options.lora_only else (True, False):
        freed()
        train(model, folder, lora, options, speed)


if __name__ == "__main__":
    main()
