"""Name -> object, imported only when used. Other packages add theirs by entry points of the group `agfsync.KIND`.

A scorer, method, generator or format is one file, one line here and one test.
"""

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from agfsync.errors import ModelError, RecipeError

CATALOG: dict[str, dict[str, str]] = {
    "captions": {
        "shapes": "agfsync.shapes.language:ShapesWriter",
    },
    "questions": {
        "shapes": "agfsync.shapes.language:ShapesWriter",
    },
    "generators": {
        "stable-diffusion": "agfsync.generators.stable_diffusion:StableDiffusion",
    },
    "scorers": {
        "vqa": "agfsync.scorers.vqa:Vqa",
        "clip": "agfsync.scorers.clip:Clip",
        "aesthetic": "agfsync.scorers.aesthetic:Aesthetic",
        "shapes-oracle": "agfsync.shapes.oracle:Oracle",
    },
    "methods": {
        "dpo": "agfsync.alignment.dpo:DiffusionDPO",
    },
}

EMBEDDED = "embedded:"


def names(kind: str) -> list[str]:
    """Every name of `kind`, the project's own first."""
    return [*CATALOG[kind], *(e.name for e in entry_points(group=f"agfsync.{kind}"))]


def find(kind: str, name: str) -> Any:
    """The object called `name` among `kind`; importing it is what costs.

    Raises:
        RecipeError: no such name; says which there are.
    """
    if name in CATALOG[kind]:
        module, _, attribute = CATALOG[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group=f"agfsync.{kind}"):
        if entry.name == name:
            return entry.load()
    close = get_close_matches(name, names(kind), n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names(kind))}"
    raise RecipeError(f"no {kind.removesuffix('s')} is called '{name}': {hint}")


def model_path(model: str) -> str:
    """Where `model` lies: a folder of this package for `embedded:NAME`, else `model` itself, a folder or a hub id.

    Raises:
        ModelError: the package has no such embedded model.
    """
    if not model.startswith(EMBEDDED):
        return model
    folder = Path(str(files("agfsync"))) / "shapes" / "weights"
    path = folder / model.removeprefix(EMBEDDED)
    if not path.is_dir():
        there = ", ".join(sorted(EMBEDDED + p.name for p in folder.glob("*") if p.is_dir())) or "none yet"
        raise ModelError(f"no embedded model '{model}': there are {there}; `agfsync shapes train` makes them")
    return str(path)
