"""What this machine has and how fast it is, measured in about a second."""

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

from agfsync.commands.doctor.tally import Work
from agfsync.files.images import decode_image, encode_png

SHARE = 0.8
"""of the rate at which a large square matrix is multiplied: what a network's multiplications are taken to reach"""
PROCESS = 0.5e9
"""bytes: Python with torch, diffusers and transformers imported, measured"""
CONTEXT = 0.6e9
"""bytes that an accelerator's driver and libraries keep for themselves"""
CGROUP = Path("/sys/fs/cgroup/memory.max")
SIZES = (256, 512, 1024, 2048, 4096, 8192)
ENOUGH = 0.03
"""seconds that one multiplication should take to be measured well; some types are slow on a CPU, and stay small"""
BUSY = 0.05
"""seconds over which the fastest of several runs is looked for, since others may be at work too"""


@dataclass(frozen=True, slots=True)
class Speed:
    """`rate` in floating-point operations a second of a type, `bandwidth` in bytes a second, `overhead` in seconds."""

    rate: Callable[[torch.dtype], float]
    bandwidth: float
    overhead: float

    def seconds(self, work: Work) -> float:
        """Each operation takes its multiplications at a share of the rate, its bytes, and the time to call it."""
        return sum(self._seconds(each.flops, each.dtype) + each.bytes / self.bandwidth for each in work.operations) + (
            self.overhead * len(work.operations)
        )

    def _seconds(self, flops: float, dtype: torch.dtype) -> float:
        return flops / (SHARE * self.rate(dtype)) if flops else 0.0


@cache
def speed(device: str) -> Speed:
    """That of `device`, such as "cuda" or "cpu"."""
    return Speed(partial(_rate, device), _bandwidth(device), _overhead(device))


@cache
def picture_seconds(height: int, width: int) -> tuple[float, float]:
    """Seconds to write a picture of this size as PNG, and to read it again and scale it for a judge; on one core."""
    noise = np.random.default_rng(0).integers(0, 32, (height, width, 3))
    slope = np.linspace(0, 200, width)[None, :, None]
    image = Image.fromarray((noise + slope).astype(np.uint8))
    data = encode_png(image)
    writing = _best(lambda: encode_png(image))
    reading = _best(lambda: np.asarray(decode_image(data).resize((224, 224)), dtype=np.float32) / 255)
    return writing, reading


def memory(device: str) -> float | None:
    """Bytes that `device` has; those of an accelerator without its `CONTEXT`. None where it doesn't say."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory) - CONTEXT
    if device == "mps":
        return float(torch.mps.recommended_max_memory())
    try:
        there = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None
    limit = CGROUP.read_text(encoding="ascii").strip() if CGROUP.is_file() else "max"
    return min(there, float(limit)) if limit.isdigit() else there


def room(path: Path) -> float:
    """Bytes that are free on the disk where `path` is or will be."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return float(shutil.disk_usage(there).free)


@cache
def _rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second in multiplying square matrices, as large as a short measurement allows."""
    rate = 0.0
    for size in SIZES:
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        seconds = _best(partial(_squared, device, matrix))
        rate = max(rate, 2 * size**3 / seconds)
        if seconds > ENOUGH:
            break
    return rate


def _squared(device: str, matrix: torch.Tensor) -> None:
    _settled(device, lambda: matrix @ matrix)


def _bandwidth(device: str) -> float:
    """Bytes a second that are read and written, beyond what caches hold."""
    source = torch.ones(16 << 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: _settled(device, lambda: target.copy_(source)))


def _overhead(device: str) -> float:
    """Seconds that an operation takes beside its work: Python, dispatch, launch."""
    layers = [layer for _ in range(30) for layer in (nn.Linear(8, 8), nn.SiLU(), nn.LayerNorm(8))]
    network, row = nn.Sequential(*layers).to(device), torch.ones(1, 8, device=device)
    with torch.inference_mode():
        return _best(lambda: _settled(device, lambda: network(row))) / len(layers)


def _settled(device: str, work: Callable[[], object]) -> None:
    """Does `work` and waits for the accelerator."""
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest run, of at least two, after one to warm up."""
    work()
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < BUSY:
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return max(min(taken), 1e-9)
