"""The peak memory of a training: that of its CUDA device, or on a CPU that of the process, which only Linux reports."""

from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, so that `read_peak_memory` returns the peak since this call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Not on Linux, or where it is forbidden: the peak is then that since the start of the process.
        with suppress(OSError):
            _RESET.write_text("5")


def read_peak_memory(device: torch.device) -> int | None:
    """Return the peak in bytes; None if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, ValueError):  # not Linux
        lines = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(lines[0][1]) * 1024 if lines and device.type == "cpu" else None
    return None
