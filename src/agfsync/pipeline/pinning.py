"""Which commit of each hub model a run uses: written into its recipe, so that a resume weeks later loads the same."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agfsync import catalog
from agfsync.models import EXCHANGED, hub
from agfsync.recipe import Recipe, check

COMMIT = re.compile(r"[0-9a-f]{40}")
UNPINNED = ("vqa-openai",)
"""Scorers whose model is a server's, under a name that may look like a hub id."""

Models = Mapping[str, dict[str, Any]]
"""The sections that name a model with a revision, by their places in the recipe."""


def pinned(recipe: Recipe, before: Recipe | None = None) -> Recipe:
    """`recipe`, each hub model's revision that it leaves open being the commit at hand; left open where there is none.

    A model of the recipe `before` keeps what it has there, also where that is nothing: what was made by it stays.
    """
    tree = recipe.model_dump(mode="json")
    known = _models(before.model_dump(mode="json")) if before else {}
    for place, section in _models(tree).items():
        if section["revision"] is None and hub.is_hub_id(section["model"]):
            section["revision"] = _revision(place, section["model"], known)
    return check(tree, where=recipe.name)


def unpinnable(recipe: Recipe) -> dict[str, str]:
    """The hub models that have no key for a revision, such as heads and LoRAs, each with the commit at hand."""
    generator = recipe.candidates.generator
    places = [generator.config, *(lora.path for lora in generator.loras)]
    for scorer in (recipe.scores.scorers | recipe.evaluation.judges).values():
        places += [scorer.head, scorer.weights] if _is_ours("scorers", scorer.type) else []
    commits = {place: hub.commit_of(place) for place in places if place and hub.is_hub_id(place)}
    return {place: commit for place, commit in commits.items() if commit}


def _revision(place: str, model: str, known: Models) -> str | None:
    """That of the same model at the same place before, else of the same model anywhere, else the one at hand."""
    there = [known[place]] if place in known else []
    for section in (*there, *known.values()):
        if section["model"] == model and (section["revision"] is None or COMMIT.fullmatch(section["revision"])):
            revision: str | None = section["revision"]
            return revision
    return hub.commit_of(model)


def _models(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(_sections(tree))


def _sections(tree: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of this project's own types: other people's may know no revision."""
    generator = tree["candidates"]["generator"]
    if _is_ours("generators", generator["type"]):
        yield "generator", generator
        for part in ("refiner", *EXCHANGED):
            if generator[part]:
                yield part, generator[part]
    for name, scorer in (tree["scores"]["scorers"] | tree["evaluation"]["judges"]).items():
        if _is_ours("scorers", scorer["type"]):
            yield f"scorers.{name}", scorer


def _is_ours(kind: str, type_: str) -> bool:
    return type_ in catalog.CATALOG[kind] and type_ not in UNPINNED
