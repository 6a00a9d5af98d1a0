"""Methods that fail as machines do, in the second of several processes or in any."""

import os

import torch
from torch import Tensor

from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import PairErrors

STEPS = 3
"""after which `Failing` fails"""


class Narrow(DiffusionDPO):
    """Has memory for two pairs at a time; where there are several processes, the first has enough."""

    failures = 0

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        if os.environ.get("RANK") != "0" and len(errors.winner_P) > 2:
            Narrow.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().compare(errors, beta)


class Failing(DiffusionDPO):
    """The second process's comes to an end."""

    calls = 0

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        Failing.calls += 1
        if os.environ.get("RANK") == "1" and Failing.calls > STEPS:
            raise RuntimeError("the card fell off the bus")
        return super().compare(errors, beta)
