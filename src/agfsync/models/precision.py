"""In which numbers a generator's networks work, and where."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """`dtype` is that of the networks: on a CPU they keep float32 weights and run under autocast."""

    device: torch.device
    dtype: torch.dtype

    @property
    def weights(self) -> torch.dtype:
        return torch.float32 if self.device.type == "cpu" else self.dtype

    def autocast(self) -> torch.autocast:
        on_cpu = self.device.type == "cpu" and self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if on_cpu else None, enabled=on_cpu)
