import pytest

from agfsync.engine.batch_fitting import release_memory
from agfsync.errors import lacks_memory


@pytest.mark.parametrize(
    ("failure", "is_one"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (RuntimeError("shapes don't fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_faults(failure: Exception, is_one: bool) -> None:
    assert lacks_memory(failure) is is_one


def test_release_needs_no_accelerator() -> None:
    release_memory()
