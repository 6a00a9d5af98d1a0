"""The work that a device does: its floating-point operations, and its kernels' time by kind."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from agfsync.models.counting import FLOPS

OTHER = "elementwise"
KINDS: Mapping[str, re.Pattern[str]] = {
    # The first that is found in a kernel's name counts: a fused attention multiplies too, and a cast is elementwise.
    "attention": re.compile(r"flash|fmha|attention|sdpa", re.I),
    "copy, cast": re.compile(
        r"memcpy|memset|copy_kernel|copy_device|CatArray|nchwToNhwc|nhwcToNchw|tensorTransform|transpose_|im2col|"
        r"indexSelect|index_select|gather_kernel|aten::(copy_|_to_copy|cat|clone|contiguous)",
        re.I,
    ),
    "optimizer": re.compile(r"multi_tensor_apply|adam", re.I),
    "matmul, conv": re.compile(
        r"gemm|gemv|nvjet|cutlass|xmma|wgmma|cublas|conv|dgrad|wgrad|fprop|winograd|splitK|implicit|cudnn|"
        r"aten::(mm|bmm|addmm|baddbmm)",
        re.I,
    ),
    "norm, softmax": re.compile(
        r"norm|moments|softmax|ComputeFusedParams|GammaBeta|ComputeInternalGradients|reduce_kernel|welford", re.I
    ),
}
LONGEST = 6
"""kernels that are named"""


@dataclass(frozen=True)
class KernelTimes:
    """The time of the kernels of some work, in seconds: in which the device was busy, and by kind and name."""

    busy: float
    kinds: Mapping[str, float]
    longest: Mapping[str, float]


class FlopCounter(TorchDispatchMode):
    """Counts the floating-point operations of all within it, by torch's formulas (a multiply-add is two).

    Torch's FlopCounterMode takes the same ones. It also follows the modules, by hooks that some models fail on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        formula, kwargs = FLOPS.get(func.overloadpacket), kwargs or {}
        if formula is None:
            # In inference mode a layer comes as a whole, and its products are within it.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def find_kind(kernel: str) -> str:
    """Return the kind of a kernel by its name."""
    return next((kind for kind, pattern in KINDS.items() if pattern.search(kernel)), OTHER)


def sum_times(kernels: Iterable[tuple[str, float, float]]) -> KernelTimes:
    """Sum the times of kernels, each with its name, start and duration in seconds; overlapping ones are busy once."""
    kinds, names = defaultdict[str, float](float), defaultdict[str, float](float)
    busy, end = 0.0, float("-inf")
    for name, start, duration in sorted(kernels, key=lambda kernel: kernel[1]):
        kinds[find_kind(name)] += duration
        names[name] += duration
        busy += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    longest = dict(sorted(names.items(), key=lambda each: -each[1])[:LONGEST])
    return KernelTimes(busy, dict(sorted(kinds.items(), key=lambda each: -each[1])), longest)


class KernelProfile:
    """The kernels between `start` and `stop`: of the GPU, or of the operations of a CPU, which contain each other."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._kept = DeviceType.CUDA if on_gpu else DeviceType.CPU
        self._profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])

    def start(self) -> None:
        self._is_on = False
        with suppress(RuntimeError):
            self._profile.start()
            self._is_on = True

    def stop(self) -> KernelTimes | None:
        """Return the times; None if the device told none."""
        results: Any = None
        with suppress(RuntimeError):
            if self._is_on:
                self._profile.stop()
                # Read as they are: torch's own table takes 0.1 ms for each of a hundred thousand.
                results = getattr(self._profile.profiler, "kineto_results", None)
        events = [each for each in results.events() if each.device_type() == self._kept] if results else []
        kernels = [(each.name(), each.start_ns() / 1e9, each.duration_ns() / 1e9) for each in events]
        marked = [each for each in kernels if not each[0].startswith(("Optimizer.", "ProfilerStep", "##"))]
        return sum_times(marked) if marked else None


def profile_kernels(work: Callable[[], Any], device: torch.device) -> KernelTimes | None:
    """Return the times of the kernels of `work`; None if they can't be had."""
    profiling = KernelProfile(device)
    profiling.start()
    try:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    finally:
        found = profiling.stop()
    return found
