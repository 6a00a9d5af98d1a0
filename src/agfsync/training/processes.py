"""Several processes that train as one: each takes its share of a step's pairs, and what follows from it is summed.

The sums are made here and not by a wrapper such as DistributedDataParallel: a step is two forward passes in several
parts, through a network of which a LoRA trains a thousandth, and the whole batch's gradient is the plain sum of the
parts' in which each pair counts alike, also where the shares aren't of one size. Every process then has the same
gradient to the last bit, and moves its weights alike.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import torch
from torch import Tensor

from agfsync.engine import launcher
from agfsync.errors import ModelError, PeerError, lacks_memory

CPU = torch.device("cpu")
PATIENCE = timedelta(hours=1)
"""How long a process may keep the others waiting: as the first does while it writes a checkpoint."""
GRACE = 1.0
"""Seconds in which a launcher that has stopped one process stops the others."""
MEETINGS = count(1)
"""numbers of the trainings of this process"""
BUCKET = 64 << 20
"""numbers that are summed at once: many small gradients in one go, and no copy of all"""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process, number `rank` of `count`, which speaks to the others by tensors on `device`."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether it is this process that tells and writes."""
        return self.rank == 0

    def share(self, size: int) -> Tensor:
        """Which of `size` rows are this process's, int64; all are somebody's."""
        return torch.arange(size).tensor_split(self.count)[self.rank]

    def total(self, values: Sequence[float]) -> list[float]:
        """Each of `values`, summed over the processes. Alone, they are what they are."""
        if self.count == 1:
            return list(values)
        total_N = torch.tensor(values, dtype=torch.float64, device=self.device)
        _add_up(total_N)
        return [float(value) for value in total_N.tolist()]

    def any(self, here: bool) -> bool:
        """Whether it is so here or in another process."""
        return self.total([float(here)])[0] > 0

    def agree(self, value: int) -> bool:
        """Whether `value` is the same everywhere."""
        return self.total([value, value**2]) == [value * self.count, value**2 * self.count]

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Makes each gradient the sum of the processes'."""
        if self.count == 1:
            return
        for bucket in _buckets(gradients):
            together_N = torch.cat([gradient.flatten() for gradient in bucket])
            _add_up(together_N)
            sums = together_N.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view(gradient.shape))


ALONE = Processes()


@contextmanager
def together(device: torch.device) -> Iterator[Processes]:
    """The processes that `accelerate launch` has started, each on a device of its own of the kind of `device`.

    All must come here, and then do the same. Alone if there is one.

    Raises:
        ModelError: such devices can't work together.
        PeerError: another process is gone, from here on wherever the processes speak to each other.
    """
    if launcher.count_processes() == 1:
        yield ALONE
        return
    from accelerate import PartialState

    launcher.meet_others(next(MEETINGS))
    place = {"rank": launcher.process_rank(), "world_size": launcher.count_processes()}
    with _watched():
        state = PartialState(cpu=device.type == "cpu", store=launcher.shared_store(), timeout=PATIENCE, **place)
    if state.num_processes != launcher.count_processes():
        raise ModelError(f"several processes can't train on {device.type} devices: launch one process")
    yield Processes(state.process_index, state.num_processes, state.device)
    # Only where all has gone well: else some of the others may still wait, and the process is about to end anyway.
    state.destroy_process_group()
    state._reset_state()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and size + gradient.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket


def _add_up(tensor: Tensor) -> None:
    with _watched():
        torch.distributed.all_reduce(tensor)


@contextmanager
def _watched() -> Iterator[None]:
    """Whatever goes wrong between processes is that one of them is gone."""
    try:
        yield
    except RuntimeError as failure:
        if lacks_memory(failure):
            raise
        # The others may be gone because all are being stopped. Then this one is told in a moment, and it is no failure.
        time.sleep(GRACE)
        raise PeerError(
            "another process of the training has ended, and says above why: what is done is kept, "
            "type the same command to go on"
        ) from failure
