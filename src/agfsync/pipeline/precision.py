"""The choice of the fastest number format on this machine for each `auto` of a recipe."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from agfsync.errors import ModelError
from agfsync.recipe import Recipe, check_recipe

AUTO = "auto"


def choose_dtypes(recipe: Recipe, before: Recipe | None = None, *, fallback: str | None = None) -> Recipe:
    """Return `recipe` with every `dtype: auto` and `precision: auto` replaced.

    A section keeps its value in the recipe `before`, so that a run keeps its number formats on another machine.

    Raises:
        ModelError: the device of a section doesn't exist, and there is no `fallback`.
    """
    tree = recipe.model_dump(mode="json")
    known = (
        {place: section[key] for place, section, key in _list_places(before.model_dump(mode="json"))} if before else {}
    )
    for place, section, key in _list_places(tree):
        if section[key] == AUTO:
            earlier = known.get(place, AUTO)
            section[key] = _choose_fastest(place, section, tree, fallback) if earlier == AUTO else earlier
    return check_recipe(tree, where=recipe.name)


def chosen_dtypes(original: Recipe, chosen: Recipe) -> dict[str, str]:
    """Return the number format that replaced each `auto`, by its place in the recipe."""
    pairs = zip(
        _list_places(original.model_dump(mode="json")), _list_places(chosen.model_dump(mode="json")), strict=True
    )
    return {f"{place}.{key}": section[key] for (place, before, key), (_, section, _) in pairs if before[key] == AUTO}


def describe_dtypes(chosen: Mapping[str, str]) -> str:
    """Return one line on `chosen_dtypes`: "drawing and judging in fp32, training in fp32 (AMD EPYC, AVX2)"."""
    training = chosen.get("training.precision")
    others = " and ".join(sorted({name for place, name in chosen.items() if not place.endswith(".precision")}))
    parts = [f"drawing and judging in {others}"] if others else []
    parts += [f"training in {training}"] if training else []
    return f"{', '.join(parts)} ({import_module('agfsync.models.dtypes').describe_cpu()})"


def _list_places(tree: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield (place, section, key) for each section with a number format."""
    yield "model", tree["model"], "dtype"
    for name, section in tree["candidates"]["beside"].items():
        yield f"candidates.beside.{name}", section, "dtype"
    for name, section in tree["scorers"].items():
        yield f"scorers.{name}", section, "dtype"
    for name, of_set in tree["evaluation"]["sets"].items():
        if of_set["pairwise"] is not None:
            yield f"evaluation.sets.{name}.pairwise", of_set["pairwise"], "dtype"
    if tree["training"]["method"]["type"] == "given":
        yield "training.method.model", tree["training"]["method"]["model"], "dtype"
    if tree["reward"] is not None:
        yield "reward", tree["reward"], "precision"
    yield "training", tree["training"], "precision"


def _choose_fastest(place: str, section: Mapping[str, Any], tree: Mapping[str, Any], fallback: str | None) -> str:
    # Imported by name: a run with nothing to do needs no torch.
    dtypes, pretrained = import_module("agfsync.models.dtypes"), import_module("agfsync.models.pretrained")
    training = place in ("training", "reward")
    own = section.get("method", {}).get("network", section) if place == "reward" else section
    device = (tree["model"] if place == "training" else own)["device"]
    try:
        name: str = dtypes.fastest_dtype(pretrained.torch_device(device), training=training)
    except ModelError:
        if fallback is None:
            raise
        return fallback
    return name
