"""Convert pickled weights to safetensors: the tensors of a file, on the CPU, without executing its code."""

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
_LISTED_KEYS = 5
"""keys in a message"""
CODE = re.compile(r"GLOBAL (\S+)")
"""the pattern of objects other than tensors in torch's error message"""
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params")
"""keys of a checkpoint that may hold the weights, if they aren't at the top level"""


def convert_weights(file: Path, out: Path) -> str:
    """Write the tensors of the pickled `file` to the new safetensors file `out`; return a line that describes it.

    Names, dtypes and shapes are kept. Tensors saved on an accelerator are loaded on the CPU; tensors that share memory
    are each written in full.

    Raises:
        FormatError: `out` exists or isn't named *.safetensors, or `file` is missing, isn't a torch pickle, could
            execute code, or has no tensors.
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
    shown = [*left_out[:_LISTED_KEYS], *(["..."] if len(left_out) > _LISTED_KEYS else [])]
    remark = f"; left out: {', '.join(shown)}" if shown else ""
    return f"{out}: {describe_tensors(tensors)}, {len(data):,} bytes{remark}"


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
    except Exception as failure:  # Unpickling can raise any error.
        if named := CODE.search(str(failure)):
            raise FormatError(
                f"{file} holds {named[1]}, not weights alone: it could run code, and isn't read"
            ) from failure
        raise FormatError(f"{file} is no file of weights that torch has saved, or is damaged") from failure


def find_tensors(content: Any, depth: int = 3) -> tuple[dict[str, Tensor], list[str]]:
    """Return a checkpoint's weights by name, each in its own memory, and the names of its other entries.

    The weights are under a usual key such as `state_dict`, nested at most `depth` deep, else at the top level.
    """
    if not isinstance(content, Mapping):
        return {}, []
    for key in WRAPPERS if depth else ():
        inner_tensors, inner_names = find_tensors(content.get(key), depth - 1)
        if inner_tensors:
            return inner_tensors, [*(str(name) for name in content if name != key), *inner_names]
    tensors = {str(name): _copy_dense(value) for name, value in content.items() if isinstance(value, Tensor)}
    return tensors, [str(name) for name in content if str(name) not in tensors]


def _copy_dense(tensor: Tensor) -> Tensor:
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return dense.clone(memory_format=torch.contiguous_format)


def describe_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the number of tensors, with their dtypes."""
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    by_dtype = list(counts) if len(counts) == 1 else [f"{count} {dtype}" for dtype, count in counts.most_common()]
    return ", ".join([f"{len(tensors)} tensor{'s' if len(tensors) != 1 else ''}", *by_dtype])
