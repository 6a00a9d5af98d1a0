"""Files of tensors: safetensors, never pickle, written atomically and verified against their checksum."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, empty_strided, uint8

from agfsync.errors import StoreError
from agfsync.files.atomic import explain_disk_error, flush_to_disk

_STRIDES, _SUM = "strides", "sha256"
"""Our own metadata: the layout of tensors that aren't contiguous, and the checksum of everything else."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The contents of a file of tensors."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file next to `path`, flush it and rename it, so that the file at `path` is always complete.

    Raises:
        StoreError: the disk is full, or writing is not allowed; the previous file is still there.
    """
    beside = path.with_name(path.name + ".partial")
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # With another layout sums are rounded in another order: a training resumed from the file would differ.
    strides = {name: tensor.stride() for name, tensor in tensors.items() if not tensor.is_contiguous()}
    head = {**metadata, **({_STRIDES: json.dumps(strides)} if strides else {})}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, beside, head | {_SUM: _compute_checksum(whole, head)})
        flush_to_disk(beside)
        beside.replace(path)
        flush_to_disk(path.parent)
    except (OSError, SafetensorError) as failure:
        beside.unlink(missing_ok=True)
        plain = StoreError(f"{path} can't be written: {failure}: see to it, then type the same command again")
        raise explain_disk_error(failure, path) or plain from failure


def read_tensors(path: Path) -> TensorFile | None:
    """Return the contents of `path`, on the CPU, in their layout; None if it is missing or damaged."""
    head = read_metadata(path)
    if head is None:
        return None
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {name: value for name, value in head.items() if name != _SUM}
    if head.get(_SUM) != _compute_checksum(tensors, metadata):
        return None
    for name, stride in json.loads(metadata.pop(_STRIDES, "{}")).items():
        there = tensors[name]
        tensors[name] = empty_strided(there.shape, stride, dtype=there.dtype).copy_(there)
    return TensorFile(tensors, metadata)


def read_metadata(path: Path) -> Mapping[str, str] | None:
    """Return the metadata of `path`, without reading its tensors; None if it is missing or incomplete."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None


def _compute_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the sha256 of a file's metadata and tensors."""
    state = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.cpu().reshape(-1).view(uint8).numpy().data)
    return state.hexdigest()
