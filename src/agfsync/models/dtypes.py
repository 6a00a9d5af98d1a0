"""The dtypes of networks by their names in a recipe, and the fastest dtype on a device."""

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from agfsync.errors import StoreError
from agfsync.files.atomic import write_atomic

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_AUTO = "auto"
FASTER = 1.25
"""A CPU uses bf16 only if it is faster than fp32, which is more exact, by more than this factor."""
AMPERE = (8, 0)
"""The first CUDA compute capability with bf16 multiplication in hardware."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The device and dtype of a model's networks; on a CPU they keep float32 weights and run under autocast."""

    device: torch.device
    dtype: torch.dtype

    @property
    def weights(self) -> torch.dtype:
        """The dtype of the weights."""
        return torch.float32 if self.device.type == "cpu" else self.dtype

    def autocast(self) -> torch.autocast:
        """Return the context in which the networks run."""
        on_cpu = self.device.type == "cpu" and self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if on_cpu else None, enabled=on_cpu)


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype for "fp32", "bf16", "fp16", or "auto", which is the fastest for drawing on `device`."""
    return DTYPES[fastest_dtype(device) if name == _AUTO else name]


def fastest_dtype(device: torch.device, *, training: bool = False) -> str:
    """Return the name of the fastest dtype on `device` that doesn't reduce the quality.

    CUDA: bf16 if the hardware supports it, else fp16. MPS: fp16 to draw, fp32 to train. A CPU is measured once, in less
    than a second: bf16 is 4 times faster than fp32 with AMX instructions, and 20 times slower with AVX2 alone. The
    result is stored in the user's cache folder, so that a machine always uses the same dtype.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= AMPERE else "fp16"
    if device.type == "mps":
        return "fp32" if training else "fp16"
    if device.type == "cpu":
        return _fastest_on_cpu(training)
    return "fp32"


@cache
def _fastest_on_cpu(training: bool) -> str:
    file, key = _cache_file(), f"{describe_cpu()}, {'training' if training else 'drawing'}"
    kept = _read_cache(file)
    if kept.get(key) not in DTYPES:
        kept[key] = "bf16" if _speedup_of_bf16(training) > FASTER else "fp32"
        with suppress(StoreError, OSError):  # The next process measures again.
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(kept, indent=1).encode())
    return kept[key]


def describe_cpu() -> str:
    """Return the processor's name, the instruction set that torch uses on it, and torch's version, in one line."""
    names = (_cpu_name(), torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
    return ", ".join(name for name in (*names, f"torch {torch.__version__}") if name)


def _cpu_name() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "agfsync" / "fastest-dtype.json"


def _read_cache(file: Path) -> dict[str, str]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _speedup_of_bf16(training: bool) -> float:
    """Return the speed-up of bf16 autocast over fp32 for a small block of a UNet, on one thread."""
    network = nn.Sequential(
        nn.Conv2d(96, 96, 3, padding=1), nn.SiLU(), nn.Conv2d(96, 96, 3, padding=1), nn.Flatten(2), nn.Linear(256, 256)
    )
    images_BCHW = torch.ones(4, 96, 16, 16)

    def run(rounded: bool) -> None:
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            out = network(images_BCHW)
        if training:
            out.float().square().mean().backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _best_seconds(lambda: run(False)) / _best_seconds(lambda: run(True))
    finally:
        torch.set_num_threads(threads)


def _best_seconds(work: Callable[[], None]) -> float:
    """Return the time of the fastest of three runs after a warm-up, since other processes may use the machine too."""
    work()
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return max(min(taken), 1e-9)
