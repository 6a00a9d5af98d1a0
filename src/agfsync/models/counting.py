"""Count the operations and the memory of a network without computing: its tensors have shapes and dtypes but no data.

A network of any size is built on PyTorch's meta device, and all of its operations are traced in seconds on any machine.
Torch's formulas give the floating-point operations (a multiply-add is two). Forward and backward passes, recomputed
activations and the copies that autocast makes are all counted.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from agfsync.models.published import UnknownModel

DATALESS = FakeTensorMode(allow_non_fake_inputs=True)
"""the mode in which all new tensors are without data, including the inputs of networks"""
SLACK = 1.3
"""the memory of results relative to their size: allocators leave gaps, and kernels need their own buffers"""

_aten = torch.ops.aten
FLOPS: Mapping[Any, Callable[..., float]] = {
    **flop_registry,
    # Torch has formulas for the fused attention of accelerators but not for that of the CPU.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(slots=True)
class Operations:
    """The operations of a network: FLOPs by dtype, bytes read and written, calls, and the peak of live bytes."""

    flops: dict[torch.dtype, float] = field(default_factory=dict)
    moved: float = 0.0
    calls: int = 0
    peak: float = 0.0

    @property
    def memory(self) -> float:
        """The bytes of memory that the results need."""
        return SLACK * self.peak


class _OperationCounter(TorchDispatchMode):
    """Counts all operations within its context in `work`.

    Torch's FlopCounterMode counts no bytes, and its MemTracker takes four times as long for the same peak.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Operations()
        self._held: set[int] = set()
        self._live = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if func.is_view or not made:
            return result
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        for tensor in made:
            self._count_storage(tensor.untyped_storage())
        self.work.calls += 1
        self.work.moved += sum(each.nbytes for each in {id(each): each for each in (*given, *made)}.values())
        if (formula := FLOPS.get(func.overloadpacket)) is not None:
            dtype, flops = (given or made)[0].dtype, float(formula(*args, **kwargs, out_val=result))
            self.work.flops[dtype] = self.work.flops.get(dtype, 0.0) + flops
        return result

    def _count_storage(self, storage: Any) -> None:
        """Count the memory of `storage` until it is freed."""
        key, size = storage._cdata, float(storage.nbytes())
        if key in self._held:
            return
        self._held.add(key)
        self._live += size
        self.work.peak = max(self.work.peak, self._live)
        weakref.finalize(storage, self._release_storage, key, size)

    def _release_storage(self, key: int, size: float) -> None:
        self._held.discard(key)
        self._live -= size


def count_operations(run: Callable[[], Any]) -> Operations:
    """Return the operations of `run`. Its peak doesn't include tensors that existed before.

    >>> rows, layer = torch.ones(10, 30), nn.Linear(30, 20, bias=False)
    >>> count_operations(lambda: layer(rows)).flops
    {torch.float32: 12000.0}
    """
    counter = _OperationCounter()
    with DATALESS, counter:
        run()
    return counter.work


def count_bytes(network: nn.Module) -> float:
    """Return the size of a network's weights and buffers, in bytes, in their own dtypes."""
    return float(sum(each.nbytes for each in (*network.parameters(), *network.buffers())))


def build_network(kind: Any, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a network of the diffusers or transformers class `kind`, without data and in evaluation mode.

    Raises:
        UnknownModel: no such network can be built from this configuration.
    """
    try:
        with torch.device("meta"):
            if hasattr(kind, "from_config"):
                network: nn.Module = kind.from_config(dict(config))
            else:
                network = kind(kind.config_class.from_dict(dict(config)))
                network.tie_weights()  # type: ignore[operator]
    except Exception as failure:
        # A third-party configuration may raise any exception, and an estimate is not worth a traceback.
        raise UnknownModel(f"no {kind.__name__} can be built of its configuration") from failure
    return make_dataless(network.eval(), dtype)


def make_dataless(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace all weights by tensors of `dtype` without data; autocast and attention treat them as CPU tensors."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or isinstance(tensor, FakeTensor):
                    continue
                if id(tensor) not in made:  # tied weights stay tied
                    kept = dtype if tensor.is_floating_point() else tensor.dtype
                    shape = torch.empty_like(tensor, dtype=kept, device="meta")
                    dataless = FakeTensor(DATALESS, shape, torch.device("cpu"))
                    is_weight = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(dataless, tensor.requires_grad) if is_weight else dataless
                held[name] = made[id(tensor)]  # type: ignore[assignment]
    return network
