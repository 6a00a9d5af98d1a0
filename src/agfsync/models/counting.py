"""Count what running a network takes without running it, on tensors that have shapes and types and hold no data.

A network of any size is built on PyTorch's meta device and passes through its operations in seconds on any machine.
Torch's own formulas give the floating-point operations (a multiply-add is two). Forward and backward passes, recomputed
activations and the rounded copies of autocast are counted as they are.
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
"""the mode in which every tensor that is made holds no data, inputs of networks included"""
SLACK = 1.3
"""memory of results in relation to their size: allocators leave gaps, and kernels need buffers of their own"""

_aten = torch.ops.aten
FLOPS: Mapping[Any, Callable[..., float]] = {
    **flop_registry,
    # Torch knows the fused attention of accelerators and not that of the CPU.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(slots=True)
class Operations:
    """The operations of a network: FLOPs by type, bytes read and written, calls, and the most bytes held at a time."""

    flops: dict[torch.dtype, float] = field(default_factory=dict)
    moved: float = 0.0
    calls: int = 0
    peak: float = 0.0

    @property
    def memory(self) -> float:
        """Bytes that the machine needs for the results."""
        return SLACK * self.peak


class _OperationCounter(TorchDispatchMode):
    """Enters every operation within it in `work`.

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
    """Return what `run` takes, in addition to what it finds there.

    >>> rows, layer = torch.ones(10, 30), nn.Linear(30, 20, bias=False)
    >>> count_operations(lambda: layer(rows)).flops
    {torch.float32: 12000.0}
    """
    counter = _OperationCounter()
    with DATALESS, counter:
        run()
    return counter.work


def count_bytes(network: nn.Module) -> float:
    """Return the bytes of a network's weights in the types that they have."""
    return float(sum(each.nbytes for each in (*network.parameters(), *network.buffers())))


def build_network(kind: Any, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a network of the class `kind`, of diffusers or transformers, that holds no data; in evaluation mode.

    Raises:
        UnknownModel: it can't be built of this configuration.
    """
    try:
        with torch.device("meta"):
            if hasattr(kind, "from_config"):
                network: nn.Module = kind.from_config(dict(config))
            else:
                network = kind(kind.config_class.from_dict(dict(config)))
                network.tie_weights()  # type: ignore[operator]
    except Exception as failure:
        # A third-party configuration may hold anything: an estimate is not worth a traceback.
        raise UnknownModel(f"no {kind.__name__} can be built of its configuration") from failure
    return make_dataless(network.eval(), dtype)


def make_dataless(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace all weights by CPU tensors of `dtype` without data, which autocast and attention treat as a CPU's."""
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
