"""Time a training step of the embedded model's network on the CPU with torch's attention kernel and with the plain one.

    python benchmarks/attention.py [--batch 48] [--rounds 5]

Both ways run in one process, alternately, each once to warm up and then timed. The last line is their ratio.
"""

import argparse
import time
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import torch

from agfsync.shapes.training.clip import CLIP_WIDTH
from agfsync.shapes.training.generator import build_unet
from agfsync.shapes.training.tokenizers import MAX_TOKENS
from agfsync.shapes.training.vae import LATENT_CHANNELS, LATENT_SIDE
from agfsync.training.precision import use_trainable_attention


def seconds_of_a_step(network: torch.nn.Module, batch: int, kernel: AbstractContextManager[None]) -> float:
    noisy_BCHW, text_BTD = (
        torch.randn(batch, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE),
        torch.randn(batch, MAX_TOKENS, CLIP_WIDTH),
    )
    started = time.perf_counter()
    with kernel, torch.autocast("cpu", torch.bfloat16):
        network(noisy_BCHW, torch.randint(1000, (batch,)), text_BTD).sample.float().square().mean().backward()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    network, device = build_unet(), torch.device("cpu")
    fused: list[float] = []
    plain: list[float] = []
    for _ in range(options.rounds + 1):
        fused.append(seconds_of_a_step(network, options.batch, nullcontext()))
        plain.append(seconds_of_a_step(network, options.batch, use_trainable_attention(device)))
    print(f"torch's choice {median(fused[1:]):.3f} s a step, plain {median(plain[1:]):.3f} s")
    print(f"ratio {median(fused[1:]) / median(plain[1:]):.2f}")


if __name__ == "__main__":
    main()
