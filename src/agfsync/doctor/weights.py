"""Whether the weights that a recipe names are here, and if not, whether and how much would be downloaded."""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from agfsync import catalog, hub
from agfsync.config import PartSettings, Recipe, ScorerSettings
from agfsync.errors import ModelError
from agfsync.generators.lora_files import choose_file

Kind = Literal["pipeline", "model", "tensors", "lora", "vae", "unet", "transformer"]
INDEX = "model_index.json"
SAFE = ".safetensors"
SHARDS = ".safetensors.index.json"
VARIANT = re.compile(r"(?:model|diffusion_pytorch_model)\.(?P<variant>[\w-]+?)(?:-\d{5}-of-\d{5})?\.safetensors")
"""What the weights of a variant are called, such as `model.fp16.safetensors`."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that aren't loaded."""
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


@dataclass(frozen=True, slots=True)
class Weights:
    """How a model stands: `here`; or bytes `to_download`; or neither, because of `fault`."""

    place: Place
    here: bool
    to_download: float = 0.0
    fault: str = ""


def places(recipe: Recipe) -> Iterator[Place]:
    """Every model that the recipe loads, each once."""
    generator = recipe.candidates.generator
    key = "candidates.generator"
    known: dict[tuple[str, str | None, Kind, str | None], Place] = {}
    found = [
        *_scorers("scores.scorers", recipe.scores.scorers),
        *_scorers("evaluation.judges", recipe.evaluation.judges),
    ]
    if generator.type in catalog.CATALOG["generators"]:
        kind: Kind = "tensors" if generator.model.endswith(SAFE) else "pipeline"
        found = [Place(f"{key}.model", generator.model, generator.revision, kind), *found]
    found += [Place(f"{key}.loras", lora.path, None, "lora", lora.file) for lora in generator.loras]
    parts: dict[Kind, PartSettings | None] = {
        "vae": generator.vae,
        "unet": generator.unet,
        "transformer": generator.transformer,
    }
    found += [Place(f"{key}.{name}", part.model, part.revision, name) for name, part in parts.items() if part]
    if generator.refiner:
        found.append(Place(f"{key}.refiner", generator.refiner.model, generator.refiner.revision, "pipeline"))
    for place in found:
        known.setdefault((place.model, place.revision, place.kind, place.file), place)
    yield from known.values()


def _scorers(key: str, scorers: dict[str, ScorerSettings]) -> Iterator[Place]:
    for name, each in scorers.items():
        if each.type not in catalog.CATALOG["scorers"] or each.type in SERVED or each.model == NO_MODEL:
            continue
        if each.weights is None:
            yield Place(f"{key}.{name}.model", each.model, each.revision, "model")
        for what, place in (("head", each.head), ("weights", each.weights)):
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
        whole = _whole(path, files, place.kind)
        return Weights(place, whole, fault=f"the folder doesn't hold all of its weights as {SAFE}")
    if not hub.is_hub_id(place.model):
        return Weights(place, False, fault="there is no such file or folder")
    return _on_the_hub(place)


def _on_the_hub(place: Place) -> Weights:
    snapshot = hub.snapshot(place.model, place.revision)
    cached = {} if snapshot is None else _sizes(snapshot)
    if snapshot is not None and place.kind == "lora" and not _lora_fault(place, cached):
        return Weights(place, True)
    if snapshot is not None and place.kind != "lora" and _whole(snapshot, cached, place.kind):
        return Weights(place, True)
    answer = hub.ask(place.model, place.revision)
    if answer.fault:
        return Weights(place, False, fault=answer.fault)
    if place.kind == "lora":
        fault = _lora_fault(place, answer.files)
        size = 0.0 if fault else float(answer.files[choose_file(place.model, answer.files, place.file)])
        return Weights(place, False, size, fault)
    wanted = _used(answer.files, place.kind)
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


def _used(files: Collection[str], kind: Kind) -> list[str]:
    """Which of a model's files hold the weights that are loaded."""
    if kind == "pipeline":
        parts = {PurePosixPath(name).parent.as_posix() for name in files if name.count("/") == 1}
        return [name for part in sorted(parts) if part not in LEFT_OUT for name in _weights(files, f"{part}/")]
    if kind in ("vae", "unet", "transformer"):
        return _weights(files, f"{kind}/") or _weights(files, "")
    return _weights(files, "")


def _weights(files: Collection[str], folder: str) -> list[str]:
    """The weights in `folder`: one file, or its shards; other precisions and other programs' copies left aside."""
    names = [name for name in files if name.startswith(folder) and "/" not in name[len(folder) :]]
    for stem in ("model", "diffusion_pytorch_model"):
        if (one := f"{folder}{stem}{SAFE}") in names:
            return [one]
        if shards := [n for n in names if n.startswith(f"{folder}{stem}-0") and n.endswith(SAFE)]:
            return shards
    # Those of a variant, such as half precision, where there are no others; of the first by name.
    found = [(match["variant"], name) for name in names if (match := VARIANT.fullmatch(name[len(folder) :]))]
    return [name for variant, name in found if variant == min(found)[0]]


def _whole(folder: Path, files: Collection[str], kind: Kind) -> bool:
    """Whether `folder` holds all that is loaded."""
    if kind != "pipeline":
        used = _used(files, kind)
        return bool(used) and _shards(folder) <= {PurePosixPath(name).name for name in used}
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    networks = [name for name in index if f"{name}/config.json" in files and name not in LEFT_OUT]
    held = {name: _weights(files, f"{name}/") for name in networks}
    return bool(held) and all(
        held[name] and _shards(folder / name) <= {PurePosixPath(file).name for file in held[name]} for name in networks
    )


def _shards(folder: Path) -> set[str]:
    """The files that a folder's index of shards names; none where there is no index."""
    for index in folder.glob(f"*{SHARDS}"):
        try:
            return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return {"an index that can't be read"}
    return set()
