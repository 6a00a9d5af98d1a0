"""The peak memory of a training: of its CUDA device, or on a CPU of the process, where Linux tells it."""

from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory(device: torch.device) -> None:
    """Forget earlier peaks, so that `read_peak_memory` returns that of what follows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # another system than Linux, or one that forbids it: the peak is then of the process
            _RESET.write_text("5")


def read_peak_memory(device: torch.device) -> int | None:
    """Return the peak in bytes; None where it isn't known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, ValueError):  # another system than Linux
        lines = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(lines[0][1]) * 1024 if lines and device.type == "cpu" else None
    return None
