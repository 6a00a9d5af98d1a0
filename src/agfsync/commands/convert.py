"""Convert pickled weights to safetensors: the tensors of a file, on the CPU, without running what is in it."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from agfsync.errors import FormatError
from agfsync.files.atomic import write_atomic

_SUFFIX = ".safetensors"
_NAMED = 5
"""keys in one message"""
CODE = re.compile(r"GLOBAL (\S+)")
"""how torch's reader names an object that is no tensor"""
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params")
"""keys of a checkpoint under which the weights lie, where they are not at its top"""


def convert_weights(file: Path, out: Path) -> str:
    """Write the tensors of the pickled `file` to the new safetensors file `out`; return one line on what was written.

    Names, dtypes and shapes stay as they are. Tensors saved on an accelerator are read on the CPU, those that share
    memory are written each in full.

    Raises:
        FormatError: `out` exists or isn't named as safetensors, or `file` is missing, no pickle of torch's, holds what
            could run code, or holds no tensors.
    """
    if out.suffix != _SUFFIX:
        raise FormatError(f"{out}: the new file's name must end in {_SUFFIX}")
    if out.exists():
        raise FormatError(f"{out} exists already: choose another name")
    if not out.parent.is_dir():
        raise FormatError(f"{out}: there is no folder {out.parent}")
    tensors, left_out = find_tensors(_load_pickle(file))
    if not tensors:
        raise FormatError(f"{file} holds no tensors by name: there is nothing to convert")
    try:
        data = save(tensors, metadata={"format": "pt"})
    except (SafetensorError, KeyError, ValueError) as failure:
        raise FormatError(f"{file} holds tensors that safetensors can't: {failure}") from failure
    write_atomic(out, data)
    said = f"; left out: {', '.join(left_out[:_NAMED])}{', ...' if len(left_out) > _NAMED else ''}" if left_out else ""
    return f"{out}: {describe_tensors(tensors)}, {len(data):,} bytes{said}"


def _load_pickle(file: Path) -> Any:
    if not file.is_file():
        raise FormatError(f"{file}: no such file")
    if file.suffix == _SUFFIX:
        raise FormatError(f"{file} is a {_SUFFIX} file already")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as failure:
        raise FormatError(f"{file}: can't be read: {failure.strerror or failure}") from failure
    except Exception as failure:  # Unpickling raises whatever the file makes it raise.
        if named := CODE.search(str(failure)):
            raise FormatError(
                f"{file} holds {named[1]}, not weights alone: it could run code, and isn't read"
            ) from failure
        raise FormatError(f"{file} is no file of weights that torch has saved, or is damaged") from failure


def find_tensors(content: Any, depth: int = 3) -> tuple[dict[str, Tensor], list[str]]:
    """Return a checkpoint's weights by name, each with memory of its own, and the names of what else it holds.

    They are those under a usual key, such as `state_dict`, at most `depth` such keys deep, else those at its top.
    """
    if not isinstance(content, Mapping):
        return {}, []
    for key in WRAPPERS if depth else ():
        found, within = find_tensors(content.get(key), depth - 1)
        if found:
            return found, [*(str(name) for name in content if name != key), *within]
    tensors = {str(name): _copy_dense(each) for name, each in content.items() if isinstance(each, Tensor)}
    return tensors, [str(name) for name in content if str(name) not in tensors]


def _copy_dense(tensor: Tensor) -> Tensor:
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return dense.clone(memory_format=torch.contiguous_format)


def describe_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return how many tensors there are, by dtype."""
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    by_dtype = list(counts) if len(counts) == 1 else [f"{count} {dtype}" for dtype, count in counts.most_common()]
    return ", ".join([f"{len(tensors)} tensor{'s' if len(tensors) != 1 else ''}", *by_dtype])
