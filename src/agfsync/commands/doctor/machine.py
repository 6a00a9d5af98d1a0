"""The resources and the speed of this machine, measured in about a second."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from agfsync.files.images import decode_image, encode_png
from agfsync.models.counting import Operations

SHARE = 0.8
"""share of the rate of large square matrix products that a network's products are assumed to reach"""
PROCESS = 0.5e9
"""bytes: Python with torch, diffusers and transformers imported, measured"""
CONTEXT = 0.6e9
"""bytes that an accelerator's driver and libraries reserve"""
CGROUP = Path("/sys/fs/cgroup/memory.max")
_SIZES = (256, 512, 1024, 2048, 4096, 8192)
ENOUGH = 0.03
"""seconds that a product should take for a good measurement; for dtypes that are slow on a CPU, matrices stay small"""
BUSY = 0.05
"""seconds in which the fastest of several runs is measured, since the machine may be busy"""


@dataclass(frozen=True, slots=True)
class Speed:
    """`rate(dtype)` in FLOP/s, `bandwidth` in bytes/s, `overhead` of a call in seconds."""

    rate: Callable[[torch.dtype], float]
    bandwidth: float
    overhead: float

    def seconds(self, work: Operations) -> float:
        """Return the seconds of its FLOPs at a share of the rate, of its memory traffic, and of its calls."""
        multiplying = sum(flops / (SHARE * self.rate(dtype)) for dtype, flops in work.flops.items())
        return multiplying + work.moved / self.bandwidth + self.overhead * work.calls


@cache
def measure_speed(device: str) -> Speed:
    """Measure the speed of `device`, such as "cuda" or "cpu"."""
    source = torch.ones(16 << 20, device=device)
    target = torch.empty_like(source)
    copying = _time_fastest(device, lambda: target.copy_(source))  # more than caches hold
    layers = [layer for _ in range(30) for layer in (nn.Linear(8, 8), nn.SiLU(), nn.LayerNorm(8))]
    network, row = nn.Sequential(*layers).to(device), torch.ones(1, 8, device=device)
    with torch.inference_mode():
        calling = _time_fastest(device, lambda: network(row))
    return Speed(partial(_measure_rate, device), 2 * source.nbytes / copying, calling / len(layers))


@cache
def measure_image_seconds(height: int, width: int) -> tuple[float, float]:
    """Measure writing an image of this size as PNG, and reading and scaling it for a judge; seconds on one core."""
    noise = np.random.default_rng(0).integers(0, 32, (height, width, 3))
    slope = np.linspace(0, 200, width)[None, :, None]
    image = Image.fromarray((noise + slope).astype(np.uint8))
    data = encode_png(image)
    reading = _time_fastest("cpu", lambda: np.asarray(decode_image(data).resize((224, 224)), dtype=np.float32) / 255)
    return _time_fastest("cpu", lambda: encode_png(image)), reading


def read_memory(device: str) -> float:
    """Return the bytes of memory of `device`; for an accelerator without `CONTEXT`."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory) - CONTEXT
    if device == "mps":
        return float(torch.mps.recommended_max_memory())
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = CGROUP.read_text(encoding="ascii").strip() if CGROUP.is_file() else "max"
    return min(total, float(limit)) if limit.isdigit() else total


def read_free_space(path: Path) -> float:
    """Return the free bytes on the disk of `path`, which need not exist yet."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return float(shutil.disk_usage(existing).free)


@cache
def _measure_rate(device: str, dtype: torch.dtype) -> float:
    """Measure FLOP/s of products of square matrices, as large as a short time allows."""
    rate = 0.0
    for size in _SIZES:
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        seconds = _time_fastest(device, partial(torch.matmul, matrix, matrix))
        rate = max(rate, 2 * size**3 / seconds)
        if seconds > ENOUGH:
            break
    return rate


def _time_fastest(device: str, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest run on `device`, of at least two, after one to warm up."""

    def run() -> float:
        begun = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        elif device == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - begun

    run()
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < BUSY:
        taken.append(run())
    return max(min(taken), 1e-9)
