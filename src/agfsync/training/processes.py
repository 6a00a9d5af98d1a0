"""Training in several processes: each takes its share of a step's rows, and the gradients are summed.

The gradients are summed here and not by a wrapper such as DistributedDataParallel: a step has two forward passes in
several parts, and a LoRA trains only about a thousandth of the network. The gradient of the whole batch is the plain
sum of the gradients of the parts, in which each row has the same weight, also if the shares differ in size. Every
process then has the same gradient to the last bit, and takes the same step.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import torch
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore

from agfsync.engine import launcher
from agfsync.errors import ModelError, PeerError, lacks_memory

CPU = torch.device("cpu")
PATIENCE = timedelta(hours=1)
"""The longest time that a process waits for another one, such as for the first while it writes a checkpoint."""
GRACE = 1.0
"""Seconds within which a launcher that has stopped one process also stops the others."""
MEETINGS = count(1)
"""The numbers of this process's trainings."""
BUCKET = 64 << 20
"""The most elements in one all-reduce: small gradients share a call, but not all gradients are copied at once."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process: number `rank` of `count`. It exchanges tensors on `device` with the others."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """True for the process that writes and reports."""
        return self.rank == 0

    def take_share(self, size: int) -> Tensor:
        """Return the positions of this process's rows among `size`, int64; each row belongs to one process."""
        return torch.arange(size).tensor_split(self.count)[self.rank]

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over the processes, in float64; a single process returns `values` unchanged."""
        if self.count == 1:
            return list(values)
        total_N = torch.tensor(values, dtype=torch.float64, device=self.device)
        _all_reduce(total_N)
        return [float(value) for value in total_N.tolist()]

    def any_true(self, here: bool) -> bool:
        """Return True if `here` is true in this or another process."""
        return self.sum_values([float(here)])[0] > 0

    def agree_on(self, value: int) -> bool:
        """Return True if `value` is the same in every process."""
        return self.sum_values([value, value**2]) == [value * self.count, value**2 * self.count]

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over the processes, in place."""
        if self.count == 1:
            return
        for bucket in _split_into_buckets(gradients):
            together_N = torch.cat([gradient.flatten() for gradient in bucket])
            _all_reduce(together_N)
            sums = together_N.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view(gradient.shape))


ALONE = Processes()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that `accelerate launch` has started, each on its own device of the type of `device`.

    Every process must call this, and then make the same calls. Yields `ALONE` if there is one process.

    Raises:
        ModelError: devices of this type can't train together.
        PeerError: another process has ended; every later exchange may raise it, too.
    """
    if launcher.count_processes() == 1:
        yield ALONE
        return
    from accelerate import PartialState

    number = next(MEETINGS)
    launcher.meet_others(number)
    # A prefix for each training: the names of an earlier training still hold the addresses of its sockets.
    store = PrefixStore(f"meeting/{number}", launcher.shared_store())
    place = {"rank": launcher.process_rank(), "world_size": launcher.count_processes()}
    with explain_lost_peer():
        state = PartialState(cpu=device.type == "cpu", store=store, timeout=PATIENCE, **place)
    if state.num_processes != launcher.count_processes():
        raise ModelError(f"several processes can't train on {device.type} devices: launch one process")
    yield Processes(state.process_index, state.num_processes, state.device)
    # Only after success: after a failure the others may still wait, and this process is about to end anyway.
    state.destroy_process_group()
    state._reset_state()


def _split_into_buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield lists of gradients with at most `BUCKET` elements in total, or with one larger gradient."""
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


def _all_reduce(tensor: Tensor) -> None:
    with explain_lost_peer():
        torch.distributed.all_reduce(tensor)


@contextmanager
def explain_lost_peer(*, by_text: bool = False) -> Iterator[None]:
    """Raise PeerError if an exchange fails within the context, since another process has then ended.

    The context must contain only exchanges. With `by_text` it may also contain other work that fails: the type and the
    message of torch's error then show if it was an exchange.
    """
    try:
        yield
    except RuntimeError as failure:
        is_exchange = isinstance(failure, torch.distributed.DistError) or "gloo" in str(failure)
        if lacks_memory(failure) or (by_text and not is_exchange):
            raise
        # The others may have ended because all are being stopped: this process then gets the signal shortly.
        time.sleep(GRACE)
        raise PeerError(
            "another process of the training has ended, and says above why: what is done is kept, "
            "type the same command to go on"
        ) from failure
