"""LoRA files: find the file in a folder or hub id, and read its changes, with tensor names of one convention."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models import LORA_FILE, hub
from agfsync.models.hub_errors import loading_errors
from agfsync.models.pretrained import find_file, loading_arguments
from agfsync.models.single_file import check_suffix

_SUFFIX = ".safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""the files of an adapter saved by peft; only the second holds the scale (alpha)"""
_METADATA = "lora_adapter_metadata"
"""the key of a file's header under which diffusers stores peft's configuration, its keys prefixed with the part"""
BIASES = ("diff_b", "lora_up_bias")
"""the parts of a change that affect a bias"""
LISTED = 8
"""the most file names in one message"""

_DOWN = r"(?:lora_down|lora\.down|lora_linear_layer\.down|lora_A(?:\.default(?:_\d+)?)?)\.weight"
_PEFTS_NAME = r"(?:\.default(?:_\d+)?)?"
SPELLINGS = [
    (re.compile(rf"^(.+)\.{pattern}$"), part)
    for pattern, part in (
        (_DOWN, "lora_down"),
        (_DOWN.replace("down", "up").replace("lora_A", "lora_B"), "lora_up"),
        (rf"lora_B{_PEFTS_NAME}\.bias", "lora_up_bias"),
        (r"lora_mid\.weight", "lora_mid"),
        (r"alpha", "alpha"),
        (r"dora_scale", "dora_scale"),
        (rf"lora_magnitude_vector{_PEFTS_NAME}(?:\.weight)?", "dora_vector"),
        (rf"(?P<same>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)){_PEFTS_NAME}", ""),
        (r"(?:diff|w_norm)", "diff"),
        (r"(?:diff_b|b_norm)", "diff_b"),
    )
] + [(re.compile(rf"^(.+\.processor\.\w+)\.{side}\.weight$"), f"lora_{side}") for side in ("down", "up")]
"""patterns of tensor names, after the name of the changed module, and their names in `lora_deltas`"""
PROCESSOR = re.compile(r"\.processor\.(to_[a-z]+)_lora\.")
"""the names of a LoRA's layers in diffusers before 0.21"""


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one module, called `name` in the file.

    `parts` are the tensors by their names in `lora_deltas`, `bias` is added to the module's bias, `magnitude` is DoRA's
    vector. The product of `parts` is scaled by `alpha` / `rank`; without `alpha` it isn't scaled, and `rank` is by
    default that of the tensors. With `by_root`, the root of the rank divides. `keys` are the file's keys of the change,
    `unknown` those that aren't supported.
    """

    name: str
    parts: dict[str, Tensor] = field(default_factory=dict)
    bias: dict[str, Tensor] = field(default_factory=dict)
    magnitude: Tensor | None = None
    alpha: float | None = None
    rank: int | None = None
    by_root: bool = False
    keys: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def lora_file(path: str, name: str | None = None) -> Path:
    """Return the local file of the LoRA at `path`, a file, folder or hub id; `name` chooses among several.

    Raises:
        ModelError: there is none, it is no safetensors file, or there are several.
    """
    place = Path(path)
    if place.is_file():
        if name and name != place.name:
            raise ModelError(f"{path} is a file and holds no {name}: leave out `file`, or name the folder")
        return check_suffix(place)
    if name:
        check_suffix(Path(name))
    if place.is_dir():
        return place / choose_file(path, [each.name for each in place.iterdir() if each.is_file()], name)
    loading_arguments(path, None)
    wanted = name or LORA_FILE
    try:
        return find_file(path, wanted, None)
    except ModelError:
        names = hub.list_files(path)
        if not names or (chosen := choose_file(path, names, name)) == wanted:
            raise
    return find_file(path, chosen, None)


def choose_file(path: str, names: Collection[str], name: str | None = None) -> str:
    """Return the LoRA among the files `names` at `path`: `name`, else diffusers' or peft's name, else the only one.

    Raises:
        ModelError: there is none, or there are several.
    """
    there = sorted(each for each in names if each.casefold().endswith(_SUFFIX) and not each.startswith("."))
    listed = ", ".join(there[:LISTED]) + (f" and {len(there) - LISTED} more" if len(there) > LISTED else "")
    if name:
        if name not in there:
            raise ModelError(f"the LoRA {path} has no file {name}: it has {listed or f'no {_SUFFIX} file'}")
        return name
    for usual in (LORA_FILE, PEFT_FILE):
        if usual in there:
            return usual
    # Files in subfolders of a hub id are often checkpoints of a training.
    there = [each for each in there if "/" not in each] or there
    if not there:
        raise ModelError(f"no LoRA at {path}: it has no {_SUFFIX} file, and nothing else is read")
    if len(there) > 1:
        raise ModelError(f"there are {len(there)} LoRAs at {path}: choose one by `file`: {listed}")
    return there[0]


def holds_lora(file: Path) -> bool:
    """Return True if the safetensors `file` holds a LoRA: most of its keys are changes of modules.

    Raises:
        ModelError: it is not a safetensors file, or is damaged.
    """
    with loading_errors(str(file)), safe_open(file, framework="pt") as opened:
        parts = [_split_key(key)[1] for key in opened.keys()]  # noqa: SIM118
    return 2 * sum(map(bool, parts)) > len(parts)


def read_changes(file: Path) -> list[Change]:
    """Return the changes of the LoRA in `file`; every key of the file belongs to one of them.

    Raises:
        ModelError: it is not a safetensors file, or some values are not finite.
    """
    with loading_errors(str(file)), safe_open(file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        config = _peft_config(file, opened.metadata() or {})
    if not tensors:
        raise ModelError(f"the LoRA {file} is empty")
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor.float()).all():
            raise ModelError(f"the LoRA {file} can't be used: {key} holds values that are not finite numbers")
    return group_changes(tensors, config)


def _peft_config(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    configuration_file = file.parent / PEFT_CONFIG
    text = header.get(_METADATA)
    if text is None and file.name == PEFT_FILE and configuration_file.is_file():
        text = configuration_file.read_text(encoding="utf-8")
    config = json.loads(text) if text else {}
    return config if isinstance(config, dict) else {}


def group_changes(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> list[Change]:
    """Return the changes that consist of `tensors`, sorted by name; `config` is peft's configuration, if any."""
    spelt: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(tensors):
        name, part = _split_key(key)
        spelt.setdefault(name, []).append((key, part))
    return [_make_change(name, keys, tensors, config or {}) for name, keys in sorted(spelt.items())]


def _split_key(key: str) -> tuple[str, str]:
    """Return the name of the changed module and of the tensor's part of the change; that is "" for an unknown key."""
    plain = PROCESSOR.sub(lambda found: f".{found[1]}{'.0' if found[1] == 'to_out' else ''}.lora.", key)
    for pattern, part in SPELLINGS:
        if found := pattern.match(plain):
            return found[1], part or found["same"]
    return key.rpartition(".")[0] or key, ""


def _make_change(name: str, spelt: Iterable[tuple[str, str]], tensors: Mapping[str, Tensor], config: Any) -> Change:
    keys = tuple(key for key, _ in spelt)
    parts = {part: tensors[key] for key, part in spelt if part}
    alpha, rank, by_root = _peft_scale(name, config)
    if (given := parts.pop("alpha", None)) is not None and given.numel() == 1:
        alpha, rank, by_root = float(given), None, False
    vector, magnitude = parts.pop("dora_vector", None), parts.pop("dora_scale", None)
    bias = {part: tensor for part, tensor in parts.items() if part in BIASES}
    return Change(
        name=name,
        parts={part: tensor for part, tensor in parts.items() if part not in BIASES},
        bias=bias,
        magnitude=magnitude if vector is None else vector.flatten(),
        alpha=alpha,
        rank=rank,
        by_root=by_root,
        keys=keys,
        unknown=tuple(key for key, part in spelt if not part),
    )


def _peft_scale(name: str, config: Mapping[str, Any]) -> tuple[float | None, int | None, bool]:
    """Return alpha, rank, and True if alpha is divided by the rank's root, from peft's configuration of a module."""
    part = name.partition(".")[0]
    own = {key.removeprefix(f"{part}."): value for key, value in config.items() if key.startswith(f"{part}.")}
    settings = own or config
    path = name.removeprefix(f"{part}." if own else "base_model.model.")
    alpha = _of_pattern(settings.get("alpha_pattern"), path, settings.get("lora_alpha", settings.get("alpha")))
    rank = _of_pattern(settings.get("rank_pattern"), path, settings.get("r"))
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        return None, None, False
    return float(alpha), rank, bool(settings.get("use_rslora"))


def _of_pattern(patterns: Any, path: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of the path, as peft does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default
