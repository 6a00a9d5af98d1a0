"""The files of a model, without loading it: its configuration, and the names of its weight files."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models import hub

WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<variant>[\w-]+?))?"
    r"(?:-\d{5}-of-\d{5}(?:\.(?P<old_variant>[\w-]+))?)?\.safetensors"
)
"""The weight files of a part in diffusers and transformers; `.fp16` and the like is their variant."""
STEMS = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}
"""The prefixes of these names, by the library of the part."""
INDEX, CONFIG = "model_index.json", "config.json"
"""The configuration files of a pipeline and of a network."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model in a folder, or of a hub id at a revision."""

    model: str
    revision: str | None = None

    @classmethod
    def from_path(cls, path: str, revision: str | None = None) -> Self:
        """Return the files of a model by its name in a recipe: a folder, a hub id or an embedded model.

        Raises:
            ModelError: the package has no such embedded model.
        """
        return cls(catalog.find_place(path), revision)

    def read(self, name: str) -> Mapping[str, Any] | None:
        """Return the JSON file `name`, fetched from the hub if necessary; None if it isn't available."""
        path: Path | None = Path(self.model) / name
        if not Path(self.model).is_dir():
            path = hub.fetch_file(self.model, name, self.revision) if hub.is_hub_id(self.model) else None
        return None if path is None else _read_json(path)

    def folder(self, part: str = "") -> Path | None:
        """Return the folder of a part on this machine, for a hub id in the cache; None if there is none."""
        here = Path(self.model) if Path(self.model).is_dir() else hub.find_snapshot(self.model, self.revision)
        return None if here is None else here / part


def find_variants(names: Collection[str]) -> set[str | None]:
    """Return the variants of the weights among the file names of a folder; None is the unnamed variant.

    >>> sorted(find_variants(["model.safetensors", "model.fp16.safetensors", "config.json"]), key=str)
    [None, 'fp16']
    """
    matches = [WEIGHTS.fullmatch(name) for name in names]
    return {match["variant"] or match["old_variant"] for match in matches if match}


def choose_variant(names: Collection[str], wanted: str | None, where: str) -> str | None:
    """Return the variant to load from a folder with the files `names`; None is the unnamed variant.

    It is the wanted variant, else the unnamed one, else, if none is wanted, the only one.

    Raises:
        ModelError: there is neither the wanted variant nor an unnamed one, or several variants and none is wanted.
    """
    found = find_variants(names)
    if wanted in found or not found:
        return wanted if wanted in found else None
    if None in found:
        return None
    if len(found) > 1 or wanted:
        there = ", ".join(sorted(str(each) for each in found))
        raise ModelError(
            f"{where} has no weights {f'of the variant {wanted}' if wanted else 'without a variant'}: "
            f"set model.variant to one of {there}"
        )
    return next(iter(found))


def choose_weights(names: Collection[str], variant: str | None = None, library: str | None = None) -> list[str]:
    """Return the files of one folder, among `names`, that a part is loaded from: one file or its shards.

    Without a `library`, transformers' names take precedence over diffusers'. Empty if there are none, or if the choice
    is ambiguous.

    >>> choose_weights(["model.fp16.safetensors", "model.safetensors"], "fp16")
    ['model.fp16.safetensors']
    """
    try:
        chosen = choose_variant(names, variant, "")
    except ModelError:
        return []
    for stem in STEMS.values() if library is None else [STEMS[library]] if library in STEMS else []:
        found = sorted(name for name in names if name.startswith(stem) and find_variants([name]) == {chosen})
        whole = [name for name in found if not _SHARD.search(name)]
        if found:
            return whole[:1] or found
    return []


def find_only_weights(names: Collection[str]) -> str | None:
    """Return the only safetensors file among `names`; None if there is none, or several.

    >>> find_only_weights(["README.md", "HPSv3.safetensors"])
    'HPSv3.safetensors'
    """
    found = [name for name in names if name.endswith(hub.SAFE)]
    return found[0] if len(found) == 1 else None


def missing_shards(folder: Path, names: Collection[str]) -> set[str]:
    """Return the shards that are listed in their index in `folder` but not among `names`; none without an index.

    >>> missing_shards(Path("nowhere"), ["model.safetensors"])
    set()
    """
    first = next(iter(names), "")
    if not _SHARD.search(first):
        return set()
    (variant,) = find_variants([first])
    indices = list(folder.glob(f"*.safetensors.index{f'.{variant}' if variant else ''}.json"))
    return (_listed_shards(indices[0]) or {indices[0].name}) - set(names) if indices else set()


def weight_files(folder: Path, library: str, variant: str | None = None) -> list[Path]:
    """Return the files in `folder` that `library` loads a part from: those of `variant`, else the unnamed ones.

    This is one file, or the shards that an index lists; empty if one of them is missing.
    """
    stem = STEMS.get(library)
    for ending in (f".{variant}", "") if variant else ("",):
        if (whole := folder / f"{stem}{ending}.safetensors").is_file():
            return [whole]
        shards = [folder / name for name in sorted(_listed_shards(folder / f"{stem}.safetensors.index{ending}.json"))]
        if shards and all(shard.is_file() for shard in shards):
            return shards
    return []


def _listed_shards(index: Path) -> set[str]:
    places = (_read_json(index) or {}).get("weight_map")
    return {str(name) for name in places.values()} if isinstance(places, dict) else set()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None
