"""Whether the weights that a recipe names are here, and if not, whether and how much would be downloaded."""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models import EXCHANGED, UNLOADED, hub
from agfsync.models.files import STEMS, choose_variant, variants
from agfsync.models.lora_files import choose_file
from agfsync.recipe import PartSettings, Recipe, ScorerSettings

Kind = Literal["pipeline", "model", "tensors", "lora", "vae", "unet", "transformer"]
INDEX = "model_index.json"
SAFE = ".safetensors"
SHARD = re.compile(r"-\d{5}-of-\d{5}")
NO_MODEL = "none"
"""what a recipe calls the model of a judge that has none"""
SERVED = ("vqa-openai",)
"""Scorers whose model is a server's."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model that the recipe names, at its key `key`."""

    key: str
    model: str
    revision: str | None
    kind: Kind
    file: str | None = None
    """of a LoRA: which of several"""
    without: tuple[str, ...] = ()
    """parts of a pipeline that another model gives"""
    variant: str | None = None
    """of a pipeline's weights: the one that the recipe wants"""


@dataclass(frozen=True, slots=True)
class Weights:
    """How a model stands: `here`; or bytes `to_download`; or neither, because of `fault`."""

    place: Place
    here: bool
    to_download: float = 0.0
    fault: str = ""


def places(recipe: Recipe) -> Iterator[Place]:
    """Every model that the recipe loads, each once."""
    generator = recipe.model
    key = "model"
    known: dict[tuple[str, str | None, Kind, str | None], Place] = {}
    found = [
        *_scorers("scorers", recipe.scorers),
    ]
    parts: dict[Kind, PartSettings | None] = {
        "vae": generator.parts.get("vae"),
        "unet": generator.parts.get("unet"),
        "transformer": generator.parts.get("transformer"),
    }
    if generator.type in catalog.CATALOG["models"]:
        kind: Kind = "tensors" if generator.path.endswith(SAFE) else "pipeline"
        without = tuple(name for name, part in parts.items() if part)
        model = Place(f"{key}.model", generator.path, generator.revision, kind, None, without, generator.variant)
        found = [model, *found]
    found += [Place(f"{key}.loras", lora.path, None, "lora", lora.file) for lora in generator.loras]
    found += [Place(f"{key}.{name}", part.path, part.revision, name) for name, part in parts.items() if part]
    if generator.refining:
        found.append(Place(f"{key}.refiner", generator.refining.path, generator.refining.revision, "pipeline"))
    for place in found:
        known.setdefault((place.model, place.revision, place.kind, place.file), place)
    yield from known.values()


def _scorers(key: str, scorers: dict[str, ScorerSettings]) -> Iterator[Place]:
    for name, each in scorers.items():
        if each.type not in catalog.CATALOG["scorers"] or each.type in SERVED or each.path == "":
            continue
        if getattr(each, "weights", None) is None:
            yield Place(f"{key}.{name}.model", each.path, each.revision, "model")
        for what, place in zip(("head", "weights"), each.files[1:], strict=True):
            if place is not None:
                yield Place(f"{key}.{name}.{what}", place, None, "tensors")


def look(place: Place) -> Weights:
    """Where the weights at `place` are.

    Raises:
        ModelError: there is no such embedded model.
    """
    path = Path(catalog.model_path(place.model)).expanduser()
    if path.is_file():
        return Weights(place, path.suffix == SAFE, fault=f"it is no {SAFE} file: nothing else is read")
    if path.is_dir():
        files = {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}
        if place.kind == "lora":
            fault = _lora_fault(place, files)
            return Weights(place, not fault, fault=fault)
        whole = _whole(path, files, place)
        return Weights(place, whole, fault=f"the folder doesn't hold all of its weights as {SAFE}")
    if not hub.is_hub_id(place.model):
        return Weights(place, False, fault="there is no such file or folder")
    return _on_the_hub(place)


def _on_the_hub(place: Place) -> Weights:
    snapshot = hub.snapshot(place.model, place.revision)
    cached = {} if snapshot is None else _sizes(snapshot)
    if snapshot is not None and place.kind == "lora" and not _lora_fault(place, cached):
        return Weights(place, True)
    if snapshot is not None and place.kind != "lora" and _whole(snapshot, cached, place):
        return Weights(place, True)
    answer = hub.ask(place.model, place.revision)
    if answer.fault:
        return Weights(place, False, fault=answer.fault)
    if place.kind == "lora":
        fault = _lora_fault(place, answer.files)
        size = 0.0 if fault else float(answer.files[choose_file(place.model, answer.files, place.file)])
        return Weights(place, False, size, fault)
    wanted = _used(answer.files, place)
    if not wanted:
        return Weights(place, False, fault=f"it has no weights as {SAFE}, and nothing else is read")
    return Weights(place, False, float(sum(answer.files[name] for name in wanted if name not in cached)))


def _lora_fault(place: Place, files: Collection[str]) -> str:
    """Why none of `files` is the LoRA; "" where one is."""
    try:
        choose_file(place.model, files, place.file)
    except ModelError as fault:
        return str(fault)
    return ""


def _sizes(folder: Path) -> dict[str, int]:
    """Files with their sizes; what the cache points at and has lost isn't there."""
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def _used(files: Collection[str], place: Place) -> list[str]:
    """Which of a model's files hold the weights that are loaded."""
    if place.kind == "pipeline":
        parts = {PurePosixPath(name).parent.as_posix() for name in files if name.count("/") == 1}
        loaded = sorted(parts.difference(UNLOADED, place.without))
        return [name for part in loaded for name in _weights(files, f"{part}/", place.variant)]
    if place.kind in EXCHANGED:
        return _weights(files, f"{place.kind}/") or _weights(files, "")
    return _weights(files, "")


def _weights(files: Collection[str], folder: str, wanted: str | None = None) -> list[str]:
    """The weights in `folder`, as `parts.choose_variant` chooses: one file, or its shards; none where it can't."""
    names = [name[len(folder) :] for name in files if name.startswith(folder) and "/" not in name[len(folder) :]]
    try:
        variant = choose_variant(names, wanted, folder)
    except ModelError:
        return []
    for stem in STEMS.values():
        found = [name for name in names if name.startswith(stem) and variants([name]) == {variant}]
        whole = [name for name in found if not SHARD.search(name)]
        if found:
            return [folder + name for name in whole[:1] or found]
    return []


def _whole(folder: Path, files: Collection[str], place: Place) -> bool:
    """Whether `folder` holds all that is loaded."""
    if place.kind != "pipeline":
        used = _used(files, place)
        return bool(used) and _has_all_shards(folder, used)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    left_out = {*UNLOADED, *place.without}
    networks = [name for name in index if f"{name}/config.json" in files and name not in left_out]
    held = [_weights(files, f"{name}/", place.variant) for name in networks]
    return bool(held) and all(used and _has_all_shards(folder, used) for used in held)


def _has_all_shards(folder: Path, used: Collection[str]) -> bool:
    """True if `used`, files of one part in `folder`, are one file, or all of the shards that their index names."""
    first = folder / next(iter(used))
    (variant,) = variants([first.name])
    indices = list(first.parent.glob(f"*{SAFE}.index{f'.{variant}' if variant else ''}.json"))
    if not SHARD.search(first.name) or not indices:
        return True
    try:
        named = set(json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return named <= {PurePosixPath(name).name for name in used}
