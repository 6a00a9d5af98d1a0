"""A check that a network's files hold all of its weights, from the files' headers alone."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from agfsync.errors import ModelError
from agfsync.models.configuration import find_class
from agfsync.models.files import weight_files
from agfsync.models.pretrained import COMPILED, describe_misfit

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""layers of a VAE's attention: older names of diffusers, which it still reads -> current names"""
_LEVELS = ("text_model", "model", "language_model")
"""first levels of the weights' names of language models, which may differ between files and the network"""


def check_headers(
    library: str, kind: str, config: Mapping[str, Any], folder: Path, label: str, variant: str | None = None
) -> None:
    """Check from their headers that the safetensors files in `folder` have all weights of a network of class `kind`.

    The files of `variant` are read if there are any, otherwise those without a variant. A class that is unknown, or
    can't be created from its configuration, isn't checked: loading it reports the error.

    Raises:
        ModelError: weights are missing (the message has `label` and the first of them), or a header can't be read.
    """
    files = weight_files(folder, library, variant)
    if not files:
        return
    groups = _list_weights(find_class(library, kind), config)
    names = [name for file in files for name in _read_names(file, label)]
    there = set(map(_simplify_name, names))
    missing = [group[0] for group in groups if there.isdisjoint(map(_simplify_name, group))]
    if missing:
        compiled = [name for name in names if COMPILED in name]
        raise ModelError(describe_misfit(label, kind, missing, unexpected=compiled))


def _read_names(file: Path, label: str) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as failure:
        raise ModelError(f"{label}: {file.name} can't be read: {' '.join(str(failure).split())[:200]}") from failure


def _list_weights(kind: Any, config: Mapping[str, Any]) -> list[list[str]]:
    """Return the names of each of a network's weights (several if tied); none if the network can't be created."""
    plain = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        with torch.device("meta"):
            if hasattr(kind, "from_config") and not hasattr(kind, "config_class"):
                accepted, _, _ = kind.extract_init_dict(dict(plain))
                network = kind(**accepted)
            else:
                network = kind(kind.config_class.from_dict(plain))
                network.tie_weights()
    except Exception:
        return []  # No network can be created from this configuration; loading it fails as well, and reports why.
    groups: dict[int, list[str]] = defaultdict(list)
    for name, weight in network.named_parameters(remove_duplicate=False):
        groups[id(weight)].append(name)
    return list(groups.values())


def _simplify_name(name: str) -> str:
    """Return a weight's name without the differences between versions of the libraries."""
    # Files have older names of a vision-language model's parts, which transformers renames on loading.
    parts = list(dropwhile(_LEVELS.__contains__, name.split(".")))
    if "attentions" in parts:
        parts = [_OLD_NAMES.get(part, part) for part in parts]
    return ".".join(parts)
