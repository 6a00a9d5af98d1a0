"""The state of a model's weights: on this machine, or the size of the download. No weights are read."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agfsync.errors import ModelError
from agfsync.models import EXCHANGED, UNLOADED, hub
from agfsync.models.files import CONFIG, INDEX, choose_weights, find_only_weights, missing_shards
from agfsync.models.hub import SAFE
from agfsync.models.lora_files import choose_file

_PIPELINES = ("model", "refiner")
"""the roles of models that consist of several networks, each in its own folder"""


@dataclass(frozen=True, slots=True)
class Weights:
    """The state of a model's weights: they are `here`, or `to_download` (bytes), or not available due to `fault`."""

    here: bool
    to_download: float = 0.0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class WeightQuery:
    """A query for the weights of `model`, a folder, a .safetensors file, or a hub id at `revision`."""

    model: str
    revision: str | None = None
    role: str = "scorer"
    """its role in the recipe, such as "model", "unet" or "lora"; most roles are one network"""
    without: Collection[str] = ()
    """the parts of a pipeline that come from another model"""
    variant: str | None = None
    """the variant of a pipeline's weights"""
    file: str | None = None
    """the file of a LoRA, if there are several"""


def find_weights(query: WeightQuery) -> Weights:
    """Find a model's weights in a folder, in the cache or on the hub."""
    path = Path(query.model)
    if path.is_file():
        fault = "" if path.suffix == SAFE else f"it is no {SAFE} file: nothing else is read"
        return Weights(not fault, fault=fault)
    if not path.is_dir() and not hub.is_hub_id(query.model):
        return Weights(False, fault="there is no such file or folder")
    folder = path if path.is_dir() else hub.find_snapshot(query.model, query.revision)
    if folder is not None:
        fault = _find_fault(folder, query)
        if path.is_dir() or not fault:
            return Weights(not fault, fault=fault)
    answer = hub.ask_hub(query.model, query.revision)
    if answer.fault:
        return Weights(False, fault=answer.fault)
    try:
        used = _choose_files(answer.files, query)
    except ModelError as several:
        return Weights(False, fault=str(several))
    if not used:
        return Weights(False, fault=f"it has no weights as {SAFE}, and nothing else is read")
    missing = [name for name in used if folder is None or not (folder / name).is_file()]
    return Weights(False, float(sum(answer.files[name] for name in missing)))


def _find_fault(folder: Path, query: WeightQuery) -> str:
    """Return which weights are missing in `folder`, as a message; "" if it has all."""
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    if query.role == "lora":
        try:
            return "" if choose_file(query.model, files, query.file) else "it holds no LoRA"
        except ModelError as fault:
            return str(fault)
    configured = [name.removesuffix(f"/{CONFIG}") for name in files if name.endswith(f"/{CONFIG}")]
    parts = [folder / part for part in _list_parts(files, configured, query)]
    if (query.role in _PIPELINES and INDEX not in files) or not parts:
        return f"the folder is no pipeline: it has no {INDEX}, or no networks"
    for part in parts:
        used = _choose_network([file.name for file in part.glob("*") if file.is_file()], query)
        if not used or missing_shards(part, used):
            return f"the folder doesn't hold all of its weights as {SAFE}"
    return ""


def _list_parts(files: Collection[str], folders: Iterable[str], query: WeightQuery) -> list[str]:
    """Return the folders of the weights, "" for the model's own; for a pipeline, the loaded parts among `folders`."""
    if query.role in _PIPELINES:
        return sorted({name for name in folders if "/" not in name}.difference(UNLOADED, query.without))
    is_inside = query.role in EXCHANGED and any(name.startswith(f"{query.role}/") for name in files)
    return [query.role if is_inside else ""]


def _choose_files(files: Mapping[str, int], query: WeightQuery) -> list[str]:
    """Return the files of a hub model to load: for each part one file, or its shards.

    Raises:
        ModelError: there is no LoRA, or there are several.
    """
    if query.role == "lora":
        return [choose_file(query.model, files, query.file)]
    chosen: list[str] = []
    for part in _list_parts(files, [name.rpartition("/")[0] for name in files if "/" in name], query):
        prefix = f"{part}/" if part else ""
        names = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
        chosen += [prefix + name for name in _choose_network(names, query)]
    return chosen


def _choose_network(names: Collection[str], query: WeightQuery) -> list[str]:
    """Return one network's weight files: by the libraries' names, else the only one of a scorer's head or weights."""
    only = find_only_weights(names) if query.role in ("head", "weights") else None
    return choose_weights(names, query.variant) or ([only] if only else [])
