"""What running a network would take, without running it: its operations are gone through on tensors without numbers.

PyTorch's fake tensors have shapes and types and hold nothing, so that a network of any size is made and gone through on
any machine in seconds. Each operation that would be carried out is seen with its shapes: how many floating-point
operations it is (a multiply-add is two), how many bytes it reads and writes, and what memory its result takes until
nothing holds it any longer. So forward and backward passes, recomputed activations and autocast's rounded copies count
as they are.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
SLACK = 1.3
"""what results take of memory, to what they hold: allocators keep gaps, and kernels work in buffers of their own"""


@dataclass(frozen=True, slots=True)
class Operation:
    """One kernel: its floating-point operations, the bytes it reads and writes, and the type it computes in."""

    flops: float
    bytes: float
    dtype: torch.dtype


@dataclass(slots=True)
class Work:
    """Operations in their order, and the most bytes that their results held at a time."""

    operations: list[Operation] = field(default_factory=list)
    peak: float = 0.0

    @property
    def memory(self) -> float:
        """Bytes that the machine needs for it."""
        return SLACK * self.peak

    @property
    def flops(self) -> float:
        return sum(each.flops for each in self.operations)


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    return float(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    return float(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


COUNTED: Mapping[Any, Callable[..., float]] = {
    # torch's own registry knows the accelerators' fused attention and not the CPU's.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


class Tally(TorchDispatchMode):
    """Within, every operation is entered in `work`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self._live = 0.0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if func.is_view or not made:
            return result
        for tensor in made:
            self._enter(tensor)
        moved = sum(_bytes(tensor) for tensor in {id(t): t for t in (*tensors, *made)}.values())
        dtype = tensors[0].dtype if tensors else made[0].dtype
        self.work.operations.append(Operation(_flops(func, args, kwargs, result), moved, dtype))
        return result

    def _enter(self, tensor: Tensor) -> None:
        """Counts the memory of `tensor` until it is given back."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = float(storage.nbytes())
        self._known[key] = weakref.finalize(storage, self._leave, key, size)
        self._live += size
        self.work.peak = max(self.work.peak, self._live)

    def _leave(self, key: int, size: float) -> None:
        self._known.pop(key, None)
        self._live -= size


def _bytes(tensor: Tensor) -> float:
    return float(tensor.numel() * tensor.element_size())


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    packet = func.overloadpacket
    if packet in COUNTED:
        return COUNTED[packet](*args, **kwargs)
    count = flop_registry.get(packet)
    return float(count(*args, **kwargs, out_val=result)) if count else 0.0


@contextmanager
def imagined() -> Iterator[None]:
    """Within, whatever is made holds nothing, networks as well as their inputs."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def tally(run: Callable[[], Any]) -> Work:
    """What `run` takes, beside what was there before."""
    counting = Tally()
    with counting:
        run()
    return counting.work
