"""The commits of a run's hub models, written into its recipe, so that a later resume loads the same weights."""

import re
from collections.abc import Mapping
from typing import Any

from agfsync import catalog
from agfsync.models import hub
from agfsync.recipe import NamedModel, Recipe, check_recipe, list_named_models

COMMIT = re.compile(r"[0-9a-f]{40}")


def pin_revisions(recipe: Recipe, before: Recipe | None = None) -> Recipe:
    """Return `recipe` with the current commit as the revision of each hub model that has none.

    A model of the recipe `before` keeps its revision, or the lack of one, so that its results stay valid.
    """
    tree = recipe.model_dump(mode="json")
    known = {named.place: named for named in _list_pinnable(before)} if before else {}
    for named in _list_pinnable(recipe):
        if named.revision is None and hub.is_hub_id(named.path):
            _find_section(tree, named.place)["revision"] = _choose_revision(named, known)
    return check_recipe(tree, where=recipe.name)


def list_unpinnable(recipe: Recipe) -> dict[str, str]:
    """Return the current commits of the hub models without a key for a revision, such as heads and LoRAs, by path."""
    paths = [named.path for named in list_named_models(recipe) if not named.has_revision and hub.is_hub_id(named.path)]
    commits = {path: hub.commit_of(path) for path in paths}
    return {path: commit for path, commit in commits.items() if commit}


def _choose_revision(named: NamedModel, known: Mapping[str, NamedModel]) -> str | None:
    """Return the earlier revision of the model at this place, else at any place, else its current commit."""
    for other in (*([known[named.place]] if named.place in known else []), *known.values()):
        if other.path == named.path and (other.revision is None or COMMIT.fullmatch(other.revision)):
            return other.revision
    return hub.commit_of(named.path)


def _list_pinnable(recipe: Recipe) -> list[NamedModel]:
    """Return the models of this project's own types: third-party types may not take a revision."""
    return [
        named for named in list_named_models(recipe) if named.has_revision and named.type in catalog.CATALOG[named.kind]
    ]


def _find_section(tree: Any, place: str) -> dict[str, Any]:
    """Return the section at `place`; the name of a scorer may contain dots."""
    section: Any = tree
    rest = place
    while rest:
        key = next(k for k in sorted(section, key=len, reverse=True) if rest == k or rest.startswith(f"{k}."))
        section, rest = section[key], rest[len(key) + 1 :]
    result: dict[str, Any] = section
    return result
