"""Tensor files: safetensors, never pickle, written atomically and verified against their checksum."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from agfsync.errors import StoreError
from agfsync.files.atomic import explain_disk_error, flush_to_disk, store_errors

_LAYOUTS, _SUM = "layouts", "sha256"
"""Keys of our own metadata: the dimension order of non-contiguous tensors, and the checksum of everything else."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The contents of a tensor file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a tensor file next to `path`, flush it and rename it, so that the file at `path` is always complete.

    Raises:
        StoreError: the disk is full, or writing is not allowed; the previous file is still there.
    """
    beside = path.with_name(path.name + ".partial")
    # Another layout would change the order in which sums are rounded: a training resumed from the file would differ.
    layouts = {name: _find_layout(tensor) for name, tensor in tensors.items()}
    # Dense tensors aren't copied: together they may be larger than the memory.
    whole = {name: tensor.permute(layouts[name]).contiguous() for name, tensor in tensors.items()}
    odd = {name: layout for name, layout in layouts.items() if layout != sorted(layout)}
    head = {**metadata, **({_LAYOUTS: json.dumps(odd)} if odd else {})}
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
    """Return the contents of `path`, on the CPU, in their original layout; None if the file is missing or damaged.

    The tensors are memory-mapped: the operating system reads their values on use, and can evict them from memory.
    """
    head = read_metadata(path)
    if head is None:
        return None
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {name: value for name, value in head.items() if name != _SUM}
    if head.get(_SUM) != _compute_checksum(tensors, metadata):
        return None
    for name, layout in json.loads(metadata.pop(_LAYOUTS, "{}")).items():
        tensors[name] = _undo_layout(tensors[name], layout)
    return TensorFile(tensors, metadata)


def read_metadata(path: Path) -> Mapping[str, str] | None:
    """Return the metadata of `path` without reading its tensors; None if the file is missing or incomplete."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None  # An unreadable checkpoint counts as never written: an earlier one is used.


def _compute_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of a file's metadata and tensors."""
    state = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.cpu().reshape(-1).view(uint8).numpy().data)
    return state.hexdigest()


def _find_layout(tensor: Tensor) -> list[int]:
    """Return the dimensions of a tensor in the order of their strides, the largest first.

    >>> _find_layout(torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    [0, 2, 3, 1]
    """
    dims = list(range(tensor.dim()))
    steps = tensor.stride()
    return dims if tensor.is_contiguous() else sorted(dims, key=lambda dim: (-steps[dim], dim))


def _undo_layout(stored: Tensor, layout: Sequence[int]) -> Tensor:
    return stored.permute([layout.index(dim) for dim in range(len(layout))])


class TensorSpool:
    """Named tensors that are written row by row to temporary files in `folder`, to keep them out of memory.

    The files have no names, so nothing remains of them, however the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._kinds: dict[str, tuple[list[int], torch.dtype, torch.Size]] = {}
        """the layout, the dtype, and the shape of a stored row"""

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows (R, ...) to each tensor; the first rows set its dtype, its layout and all of its shape but R.

        Raises:
            StoreError: the disk is full, or writing is not allowed.
        """
        with store_errors(self._folder):
            for name, tensor in rows.items():
                if name not in self._files:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._files[name] = TemporaryFile(dir=self._folder)  # noqa: SIM115 - `finish` closes it
                    layout = [0, *(dim for dim in _find_layout(tensor) if dim)]
                    self._kinds[name] = layout, tensor.dtype, tensor.permute(layout).shape[1:]
                stored = tensor.cpu().permute(self._kinds[name][0]).contiguous()
                self._files[name].write(stored.reshape(-1).view(uint8).numpy().data)

    def finish(self) -> dict[str, Tensor]:
        """Return the tensors with all their rows, on the CPU, memory-mapped."""
        found = {}
        with store_errors(self._folder):
            for name, (layout, dtype, shape) in self._kinds.items():
                with self._files.pop(name) as file:
                    stored = torch.from_numpy(np.memmap(file, np.uint8, mode="c")).view(dtype)
                found[name] = _undo_layout(stored.view(-1, *shape), layout)
        return found
