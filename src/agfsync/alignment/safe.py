"""Files of tensors: safetensors only, never pickle, and whole or not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agfsync.disk import fault, flush
from agfsync.errors import StoreError


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a file of tensors holds."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes beside `path`, flushes and renames, so that what is at `path` is always whole.

    Raises:
        StoreError: the disk is full or doesn't allow it; what was at `path` is still there.
    """
    beside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, dict(metadata))
        flush(beside)
        beside.replace(path)
        flush(path.parent)
    except (OSError, SafetensorError) as failure:
        beside.unlink(missing_ok=True)
        plain = StoreError(f"{path} can't be written: {failure}: see to it, then type the same command again")
        raise fault(failure, path) or plain from failure


def read_tensors(path: Path) -> TensorFile | None:
    """What `path` holds, on the CPU; None if it isn't there or isn't whole."""
    metadata = read_metadata(path)
    if metadata is None:
        return None
    with safe_open(path, framework="pt") as file:
        return TensorFile({name: file.get_tensor(name) for name in file.keys()}, metadata)  # noqa: SIM118


def read_metadata(path: Path) -> Mapping[str, str] | None:
    """What is written on top of `path`, without reading its tensors; None if it isn't there or isn't whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None
